"""Checksums of files."""

import errno
import hashlib
import stat
from pathlib import Path

CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Of a file of any size, in hexadecimal digits."""
    return digests(path, "sha256")["sha256"]


def digests(path: Path, *kinds: str) -> dict[str, str]:
    """Several in one pass: kind, as hashlib names it -> hexadecimal digits.

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
