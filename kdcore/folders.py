"""Outputs that are whole or absent."""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdcore.errors import is_full


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path` only when the block ends without an error.

    Until then it stands beside it, and after an error it is removed; what was at `path` is replaced. Other processes
    that fill the same folder wait, and then replace it in their turn.

    Raises:
        OSError: of a full disk, naming the folder, whatever the library that wrote said of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, replaced = (path.with_name(f".{path.name}{kind}.unfinished") for kind in ("", ".replaced"))
    with _alone(path):
        for left in (aside, replaced):  # by a process that was killed
            if left.exists():
                shutil.rmtree(left)
        aside.mkdir()
        try:
            yield aside
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise
        if path.exists():
            path.rename(replaced)  # at once: half of it would be there for a while if it were deleted in its place
        aside.rename(path)
        if replaced.exists():
            shutil.rmtree(replaced)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from filling the same folder."""
    file = path.with_name(f".{path.name}.lock.unfinished")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process writes it; waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone, and makes a new one
        lock.release()
