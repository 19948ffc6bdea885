"""Outputs that are whole or absent."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path` only when the block ends without an error.

    Until then it stands beside it, and after an error it is removed; what was at `path` is replaced.
    """
    aside = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(path)
    aside.rename(path)
