"""Memory of the process: what a training step frees is kept for the next step."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Of glibc's mallopt."""
NEVER = 2**31 - 1


def keep_freed() -> None:
    """Keep freed memory in the process instead of handing it back to the system.

    By default glibc hands back large blocks at once, and the system clears every page before it gives it out again:
    on 2 cores that took up to a third of a step of ResNet20. It is given back when the process ends. Without effect
    where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, NEVER)
        library.mallopt(MMAP_MAX, 0)
