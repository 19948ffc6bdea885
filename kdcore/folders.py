"""Outputs that are whole or absent, whenever the process that makes them is killed, and whoever else makes them."""

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

    Until then it stands beside it, and after an error it is removed; what was at `path` is replaced. What a killed
    process left beside it goes with the next call. Other processes that fill the same folder wait for their turn.

    Raises:
        OSError: the disk is full, whatever the library said that found it so; names the folder.
    """
    aside, replaced = _beside(path, "unfinished"), _beside(path, "replaced")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        for left in (aside, replaced):
            _discard(left)
        aside.mkdir()
        try:
            yield aside
        except BaseException as error:
            shutil.rmtree(aside, ignore_errors=True)
            if is_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise
        if os.path.lexists(path):
            path.rename(replaced)  # in one step: removed in its place, it would be a part of itself meanwhile
        aside.rename(path)
        _discard(replaced)


def remove(path: Path) -> None:
    """Remove a folder, so that nobody finds a part of it."""
    replaced = _beside(path, "replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    path.rename(replaced)
    shutil.rmtree(replaced)


def _discard(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from filling the same folder."""
    file = _beside(path, "lock.unfinished")
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


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")
