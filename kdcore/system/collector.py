"""Do without Python's garbage collector where what is made stays."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from running inside the block, for imports such as torch's, and for plans of many cells.

    While thousands of objects are made that stay, the collector looks at all of them again and again: a seventh of the
    time in both cases.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
