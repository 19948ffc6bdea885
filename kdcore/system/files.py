"""Outputs that are whole or absent, whenever the process that makes them is killed, and whoever else makes them."""

import errno
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdcore.system.errors import UserError, is_full


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes its place at `path` only when the block ends without an error.

    Until then it stands beside it, and after an error it is removed; what was at `path` is replaced. What a killed
    process left beside it goes with the next call. Other processes that fill the same folder wait for their turn.

    Raises:
        OSError: the disk is full, whatever the library said that found it so; names the folder.
    """
    lock_file = _beside(path, "lock.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, "writes", lock_file=lock_file):
        try:
            with _replaced_at_the_end(path) as aside:
                yield aside
        finally:
            lock_file.unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone


@contextmanager
def _replaced_at_the_end(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which takes its place when the block ends without an error."""
    aside, replaced = _beside(path, "unfinished"), _beside(path, "replaced")
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


@contextmanager
def unchanged(*paths: str) -> Iterator[None]:
    """Refuse what was made from files, or from all below folders but what Python compiles, that have changed meanwhile.

    Raises:
        UserError: names the first that has.
    """
    before = _stamps(paths)
    yield
    after = _stamps(paths)
    for path in (path for path in sorted({*before, *after}) if before.get(path) != after.get(path)):
        raise UserError(f"{path}: has changed while it was read; run the same command again")


def _stamps(paths: tuple[str, ...]) -> dict[Path, tuple[int, int]]:
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    plain = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return {file: ((stat := file.stat()).st_mtime_ns, stat.st_size) for file in plain}


def remove_folder(path: Path) -> None:
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
def alone(path: Path, doing: str, *, lock_file: Path) -> Iterator[None]:
    """Keep other processes from the same work; wait for one that is at it, and say so on stderr.

    Args:
        path: what is worked on, for the message.
        doing: what the other process does with it: "writes".
        lock_file: is locked meanwhile, and stays: a waiting process may hold it open.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process {doing} it; waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def sync(*paths: Path) -> None:
    """Wait until files, and the names in folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


SCRATCH = Path("scratch")


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole: a reader sees the old text or the new one, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not named by process number: machines that share the folder have the same ones.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, and what processes that were killed while they wrote it have left."""
    for left in (path, *path.parent.glob(f".{glob.escape(path.name)}.*")):
        left.unlink(missing_ok=True)


CHUNK = 1 << 20


def is_installed(path: Path) -> bool:
    """Whether a file or folder is an installed package's, which has a version, and none of the user's."""
    return bool({"site-packages", "dist-packages"} & {*path.parts})


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file of any size, in hexadecimal digits."""
    return file_digests(path, "sha256")["sha256"]


def file_digests(path: Path, *kinds: str) -> dict[str, str]:
    """Compute several checksums of a file in one pass: kind, as hashlib names it -> hexadecimal digits.

    Raises:
        OSError: the file cannot be read, or is none: a pipe or a device might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "a folder, a pipe or a device", str(path))
    found = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for digest in found.values():
                digest.update(chunk)
    return {kind: digest.hexdigest() for kind, digest in found.items()}


def expanded(path: str | Path) -> Path:
    """Write out the home folder in a path that begins with ~ or ~user; of an unknown user, the path stays as it is."""
    return Path(os.path.expanduser(path))


def links_in(folder: Path) -> list[Path]:
    """List the links in a folder; none where it is no folder, or cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_symlink())
    except OSError:
        return []


def read_json(path: Path) -> dict[str, Any]:
    """Read the mapping that a JSON file holds.

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run 'dvc repro'") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged ({error}); run 'dvc checkout' or 'dvc repro'") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged (no keys and values); run 'dvc checkout' or 'dvc repro'")
    return content


def json_text(content: dict[str, Any]) -> str:
    """Write a mapping of plain values as JSON."""
    return json.dumps(content, indent=1) + "\n"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write what `json_text` makes of a mapping into a file."""
    path.write_text(json_text(content), encoding="utf-8")


def allowed_bytes(variable: str, default: float) -> float:
    """Read an environment variable that allows so many gigabytes; returns bytes.

    Args:
        variable: its name.
        default: gigabytes, where it is not set.

    Raises:
        UserError: it is no number from 0 upwards.
    """
    given = os.environ.get(variable, str(default))
    try:
        allowed = float(given)
    except ValueError:
        allowed = math.nan
    if not allowed >= 0:
        raise UserError(f"{variable}={given}: must be a number of gigabytes; 0 keeps none")
    return allowed * 1e9
