"""Recognise the small files that stand for large ones in repositories: without their tool, only these are there."""

from pathlib import Path

HEAD = 64
"""How many bytes at the beginning of a file tell."""
LFS, LFS_BEFORE_2015 = b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/"
ANNEX = b"/annex/objects/"


def stands_for_another(head: bytes) -> str | None:
    """Say what a file is, for a message, if it only points to the file that is wanted; None if it does not.

    Args:
        head: the first `HEAD` bytes of the file, or more of it.
    """
    if head.startswith((LFS, LFS_BEFORE_2015)):
        return "is a Git LFS pointer, not the file itself; run 'git lfs pull' in the repository that it is from"
    if head.startswith(ANNEX):
        return "is a git-annex pointer, not the file itself; run 'git annex get' in the repository that it is from"
    return None


def file_stands_for_another(file: Path) -> str | None:
    """Say the same of a file on the disk; None also if it is none or cannot be read, which its reader says better."""
    if not file.is_file():  # a pipe might never end
        return None
    try:
        with file.open("rb") as content:
            return stands_for_another(content.read(HEAD))
    except OSError:
        return None
