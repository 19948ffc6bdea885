"""Archives from elsewhere: tar, tar.gz and zip, every member checked before a byte of any is written."""

import difflib
import gzip
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, TypeAlias

from kdcore.system.errors import UserError, named, shown
from kdcore.system.files import whole

LIMIT = 256 * 2**30
CHUNK = 1 << 20
MOST_MEMBERS = 200_000
"""And folders that members are in. Tiny-ImageNet, the largest archive that is read here, has 120,000."""
LONGEST_PATH, DEEPEST = 4096, 100
"""Characters of a member's path, which systems have no more of, and its parts."""
LARGEST_RATIO, FREE = 100, 2**30
"""Of what all members declare to the archive's size, where they declare more than so much: images and weights hardly
shrink."""
LONGEST_HEADER, ALL_HEADERS, LONGEST_END = CHUNK, 128 * CHUNK, 64 * CHUNK
"""Bytes of a tar: of one header, which is read into memory; of all, most members having one of 512 bytes; and of what
follows the last member."""
BLOCK = 512
"""Bytes of a tar header; a block of zeros ends the archive."""
FILE, FOLDER = "a file", "a folder"
SHOWN, LONGEST_REASON = 3, 200


@dataclass(frozen=True)
class _Member:
    """What an archive holds under one name."""

    name: str
    """As the archive spells it."""
    kind: str
    """`FILE`, `FOLDER`, or what else it is."""
    size: int
    """Declared, in bytes."""
    entry: Any
    """The library's own."""
    open: Callable[[], IO[bytes] | None]

    @property
    def path(self) -> PurePosixPath:
        """Without "." parts."""
        return PurePosixPath(self.name)


def extract(archive: Path, folder: Path, *, members: Sequence[str] | None = None, limit: int = LIMIT) -> None:
    """Write files of an archive below a folder, which is whole or, after an error, as it was.

    Files get the mode that new files have here, whatever the archive says of modes and owners.

    Args:
        archive: tar, tar.gz or zip, by its content.
        folder: takes what is wanted, under the archive's paths; what was there is replaced.
        members: paths in the archive of files, or of folders with all that is in them; None for everything.
        limit: bytes that all members together may declare.

    Raises:
        UserError: it is no archive, damaged or truncated, or a bomb (too many members, or far larger unpacked); one of
            its members, wanted or not, is neither file nor folder, has a path that is absolute or leads outside, takes
            the place of another one, or exceeds the limit; or there is no such member.
    """
    with _checked(archive, folder, limit) as found:
        wanted = found if members is None else _wanted(archive, found, members)
        with whole(folder) as aside:
            for member in wanted:
                target = aside / member.path
                (target.parent if member.kind == FILE else target).mkdir(parents=True, exist_ok=True)
                if member.kind == FILE:
                    _write(archive, member, target)


def member(archive: Path, name: str, folder: Path, *, limit: int = LIMIT) -> Path:
    """Write one file of an archive into a folder, under the last part of its name, whole or not at all.

    Args and errors as of `extract`.

    Returns:
        The file.
    """
    with _checked(archive, folder, limit) as found:
        path = PurePosixPath(name)
        files = [entry for entry in found if entry.kind == FILE and entry.path == path]
        if not files:
            raise _missing(archive, found, name)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{path.name}.unfinished"
        try:
            _write(archive, files[0], aside)
            return aside.replace(folder / path.name)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def _checked(archive: Path, folder: Path, limit: int) -> Iterator[list[_Member]]:
    """All members of an archive, none of which can do harm in this folder, while it is open."""
    with _reading(archive):
        file = archive.open("rb")
    with file:
        found: list[_Member] = []
        places = _Places()
        declared, most = 0, min(limit, max(FREE, LARGEST_RATIO * archive.stat().st_size))
        with _reading(archive):
            for entry in _members(file):
                declared += entry.size
                problem = _problem(entry) or places.take(entry)
                if declared > most:
                    problem = f"makes the archive larger than {most:,} bytes"
                if max(len(found) + 1, places.number) > MOST_MEMBERS:
                    problem = f"comes after {MOST_MEMBERS:,} others, more than are allowed"
                if problem:
                    raise UserError(f"{archive}: its member {shown(entry.name)} {problem}; nothing was extracted")
                if isinstance(entry.entry, tarfile.TarInfo) and hasattr(tarfile, "data_filter"):
                    tarfile.data_filter(entry.entry, str(folder))  # a second lock, which early 3.10 lacks
                found.append(entry)
        yield found


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{archive}: no such archive") from error
    except Exception as error:  # what the libraries raise depends on where the damage is
        reason = (str(error) or type(error).__name__)[:LONGEST_REASON]
        raise UserError(f"{archive}: is no whole tar, tar.gz or zip archive ({reason})") from error


def _members(file: IO[bytes]) -> Iterator[_Member]:
    start = file.read(4)
    file.seek(0)
    if start in (b"PK\3\4", b"PK\5\6"):
        return _of_zip(zipfile.ZipFile(file))
    return _of_tar(gzip.GzipFile(fileobj=file) if start[:2] == b"\x1f\x8b" else file)


class _Sparing:
    """A file of which no more is read, at once and in all, than headers need, whatever a tar's header says.

    Args:
        file: uncompressed.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.left = ALL_HEADERS

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or those that are left."""
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"headers of more than {ALL_HEADERS:,} bytes")
        content: bytes = self.file.read(size)
        return content


def _of_tar(file: Any) -> Iterator[_Member]:
    sparing: Any = _Sparing(file)
    archive: tarfile.TarFile = tarfile.open(fileobj=sparing, mode="r:")  # noqa: SIM115 - stays open as long as the file
    for entry in archive:
        # Read already, and large where someone wants it: of each member; or of all, which each would get a copy of.
        entry.pax_headers, archive.pax_headers = {}, {}
        kinds = {
            FILE: entry.isreg(),
            FOLDER: entry.isdir(),
            "a symbolic link": entry.issym(),
            "a hard link": entry.islnk(),
            "a device": entry.isdev(),
            "a special file": True,
        }
        kind = next(kind for kind, is_it in kinds.items() if is_it)
        yield _Member(entry.name, kind, entry.size, entry, partial(archive.extractfile, entry))
    archive.fileobj = file  # what is left to read are contents
    file.seek(archive.offset)
    if file.read(BLOCK) != bytes(BLOCK):  # the library takes the end of a file for the end of the archive
        raise tarfile.ReadError("its end is missing")
    left = LONGEST_END
    while read := len(file.read(CHUNK)):  # the checksum of a compressed one comes after its last byte
        left -= read
        if left < 0:
            raise tarfile.ReadError(f"more than {LONGEST_END:,} bytes follow its end")


def _of_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for entry in archive.infolist():
        mode = stat.S_IFMT(entry.external_attr >> 16)
        kind = FOLDER if entry.is_dir() else FILE
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a symbolic link" if mode == stat.S_IFLNK else "a special file"
        elif entry.flag_bits & 1:
            kind = "an encrypted file"
        elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            kind = "a file compressed otherwise than zips are"  # the library would unpack it to any size at once
        yield _Member(entry.orig_filename, kind, entry.file_size, entry, partial(archive.open, entry))


def _problem(entry: _Member) -> str | None:
    """Why a member could do harm by itself."""
    if len(entry.name) > LONGEST_PATH or entry.name.count("/") > DEEPEST:  # before anything takes it to pieces
        return f"has a path of more than {LONGEST_PATH:,} characters or {DEEPEST} parts"
    problems = {
        f"is {entry.kind}": entry.kind not in (FILE, FOLDER),
        f"declares {entry.size} bytes": entry.size < 0,
        "has an absolute path": entry.path.is_absolute(),
        "has a drive letter": bool(PureWindowsPath(entry.name).drive),
        "leads outside": ".." in entry.path.parts,
        "has a backslash or a zero byte in its path": "\\" in entry.name or "\0" in entry.name,
        "is a file without a name": entry.kind == FILE and not entry.path.parts,
    }
    return next((problem for problem, is_it in problems.items() if is_it), None)


_Folder: TypeAlias = "dict[str, tuple[str, str, _Folder]]"
"""Each part of a path, without case and composition -> itself, its kind and what is in it."""


class _Places:
    """The places that members have taken, on file systems that ignore case and composition too."""

    def __init__(self) -> None:
        self.top: _Folder = {}
        self.number = 0
        """Of files and folders, with those that only others name."""

    def take(self, entry: _Member) -> str | None:
        """Why a member has no place of its own, or None; folders may be named again."""
        inside, parts = self.top, entry.path.parts
        for depth, part in enumerate(parts, 1):
            kind = entry.kind if depth == len(parts) else FOLDER
            key = unicodedata.normalize("NFC", part).casefold()
            if key not in inside:
                self.number += 1
                inside[key] = (part, kind, {})
            elif inside[key][0] != part:
                other = "/".join([*parts[: depth - 1], inside[key][0]])
                return f"differs from {shown(other)} by case or composition alone"
            elif inside[key][1] != kind:
                return "is in the way of another one: one is a file, the other a folder"
            elif kind == FILE:
                return "is there twice"
            inside = inside[key][2]
        return None


def _wanted(archive: Path, found: list[_Member], names: Sequence[str]) -> list[_Member]:
    """The members of these names, and those in folders of these names."""
    wanted = {PurePosixPath(name): name for name in names}
    chosen, met = [], set()
    for entry in found:
        by = wanted.keys() & {entry.path, *entry.path.parents}
        met |= by
        if by:
            chosen.append(entry)
    for path, name in wanted.items():
        if path not in met:
            raise _missing(archive, found, name)
    return chosen


def _missing(archive: Path, found: list[_Member], name: str) -> UserError:
    files = [str(entry.path) for entry in found if entry.kind == FILE]
    near = difflib.get_close_matches(name, files, n=SHOWN, cutoff=0.5) or files[:SHOWN]
    held = ", ".join(map(named, near))
    return UserError(f"{archive}: has no member {shown(name)}; it holds {len(files)} files, such as {held}")


def _write(archive: Path, entry: _Member, target: Path) -> None:
    try:
        with target.open("xb") as file:
            for chunk in _chunks(archive, entry):
                file.write(chunk)
    except OSError as error:
        place = target.parent / named(target.name)
        raise UserError(f"{place}: cannot be written ({error.strerror or error})") from error


def _chunks(archive: Path, entry: _Member) -> Iterator[bytes]:
    """The bytes of a file, as many as were declared."""
    left = entry.size
    with _reading(archive):
        file = entry.open()
        while file and (chunk := file.read(CHUNK)):
            left -= len(chunk)
            yield chunk
        if left:
            raise EOFError(f"{shown(entry.name)} has {entry.size - left:,} of {entry.size:,} bytes")
