"""Extract tar, tar.gz and zip archives from elsewhere with `tarfile` and `zipfile`.

All members are checked before the first one is written: an archive that could write outside its folder, make links or
devices, or fill the disk or the memory is refused as a whole.
"""

import difflib
import gzip
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from kdcore.system.errors import UserError, named, shown
from kdcore.system.files import whole

CHUNK = 1 << 20
LIMIT = 256 * 2**30
"""Most bytes that the members of an archive may have together."""
LARGEST_RATIO, FREE = 100, 2**30
"""Members that have more than `FREE` bytes together may have at most so many times the archive's size: images and
weights hardly shrink."""
MOST_MEMBERS, MOST_PARTS = 200_000, 2_000_000
"""Most members, and most parts of all their paths, each of which could be a folder. Tiny-ImageNet, the largest archive
that is read here, has 120,000 members of 4 or 5 parts."""
LONGEST_PATH = 4096
LARGEST_HEADER, ALL_HEADERS = CHUNK, 128 * CHUNK
"""Most bytes of one tar header, which `tarfile` reads into memory whole, and of all of them."""
LONGEST_END = 64 * CHUNK
"""Most bytes that may follow the last member of a tar."""
SHOWN, LONGEST_REASON = 3, 200


@dataclass(frozen=True)
class _Member:
    """One member of an archive: the entry of tarfile or zipfile, and the properties that are checked."""

    entry: tarfile.TarInfo | zipfile.ZipInfo
    name: str
    size: int
    """Size in bytes that the archive declares."""
    is_folder: bool
    is_plain: bool
    """Whether it is a folder or an ordinary file, and neither a link nor a device nor encrypted."""

    @property
    def path(self) -> PurePosixPath:
        """Return the path in the archive, without "." parts."""
        return PurePosixPath(self.name)

    @property
    def place(self) -> str:
        """Return the path as a file system sees it that ignores case and the composition of characters."""
        return unicodedata.normalize("NFC", str(self.path)).casefold()

    def problem(self) -> str | None:
        """Return why the member could do harm, or None."""
        if len(self.name) > LONGEST_PATH:
            return f"has a path of more than {LONGEST_PATH:,} characters"
        problems = {
            "is neither a plain file nor a folder": not self.is_plain,
            "declares a size below zero": self.size < 0,
            "has an absolute path": self.path.is_absolute() or bool(PureWindowsPath(self.name).drive),
            "leads outside": ".." in self.path.parts or "\\" in self.name or "\0" in self.name,
            "has no name": not self.is_folder and not self.path.parts,
        }
        return next((problem for problem, is_so in problems.items() if is_so), None)


def extract(archive: Path, folder: Path, *, members: Sequence[str] | None = None, limit: int = LIMIT) -> None:
    """Extract files of an archive into a folder, which is whole or, after an error, as it was before.

    Files get the mode that new files have here, whatever the archive says of modes and owners.

    Args:
        archive: tar, tar.gz or zip, told apart by their content.
        folder: takes what is wanted, under the archive's paths; what was there is replaced.
        members: paths in the archive of files, or of folders with all that is in them; None extracts everything.
        limit: most bytes that all members together may declare.

    Raises:
        UserError: the file is no archive, is damaged or truncated, or holds too many or too large members; a member,
            wanted or not, is a link or a device, has a path that is absolute or leads outside; or there is no such
            member.
    """
    with _checked(archive, limit) as (opened, listed):
        wanted = listed if members is None else _wanted(archive, listed, members)
        with whole(folder) as aside:
            for one in wanted:
                _extract_one(archive, opened, one, aside)


def member(archive: Path, name: str, folder: Path, *, limit: int = LIMIT) -> Path:
    """Extract one file of an archive into a folder, under the last part of its name, whole or not at all.

    Args:
        archive: tar, tar.gz or zip, told apart by their content.
        name: the file's path in the archive.
        folder: takes the file; is made.
        limit: most bytes that all members together may declare.

    Returns:
        The path of the extracted file.

    Raises:
        UserError: the archive is damaged, too large, or leads out of its folder.
    """
    with _checked(archive, limit) as (opened, listed):
        path = PurePosixPath(name)
        files = [one for one in listed if one.path == path and not one.is_folder]
        if not files:
            raise _missing(archive, listed, name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            _extract_one(archive, opened, files[0], Path(aside))
            return (Path(aside) / path).replace(folder / path.name)


@contextmanager
def _checked(archive: Path, limit: int) -> Iterator[tuple[Any, list[_Member]]]:
    """Open an archive, and yield it with all its members after each was found harmless."""
    with _damage(archive):
        file = archive.open("rb")
    with file:
        listed: list[_Member] = []
        places: set[str] = set()
        declared, parts, most = 0, 0, min(limit, max(FREE, LARGEST_RATIO * archive.stat().st_size))
        with _damage(archive):
            opened, members = _open(file)
            for one in members:
                problem = one.problem()
                if not one.is_folder:
                    problem = problem or ("is there twice" if one.place in places else None)
                    places.add(one.place)
                declared += one.size
                parts += len(one.path.parts)
                if declared > most:
                    problem = f"makes the archive larger than {most:,} bytes"
                if len(listed) == MOST_MEMBERS or parts > MOST_PARTS:
                    problem = f"is one too many: at most {MOST_MEMBERS:,} are allowed"
                if problem:
                    raise UserError(f"{archive}: its member {shown(one.name)} {problem}; nothing was extracted")
                listed.append(one)
        yield opened, listed


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Turn what the libraries raise over a damaged archive, which depends on where the damage is, into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{archive}: no such archive") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__)[:LONGEST_REASON]
        raise UserError(f"{archive}: is no whole tar, tar.gz or zip archive ({reason})") from error


def _open(file: IO[bytes]) -> tuple[Any, Iterator[_Member]]:
    """Return the library's archive, and an iterator over its members."""
    start = file.read(4)
    file.seek(0)
    if start in (b"PK\3\4", b"PK\5\6"):
        zipped = zipfile.ZipFile(file)
        return zipped, map(_zip_member, zipped.infolist())
    content: Any = gzip.GzipFile(fileobj=file) if start[:2] == b"\x1f\x8b" else file
    headers: Any = _Headers(content)
    tar = tarfile.open(fileobj=headers, mode="r:")  # noqa: SIM115 - stays open as long as the file
    return tar, _tar_members(tar, content)


class _Headers:
    """Limits what `tarfile` reads of headers: by itself it reads a header of any declared size into memory."""

    def __init__(self, file: Any) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell
        self.left = ALL_HEADERS

    def read(self, size: int = -1) -> bytes:
        """Read a header."""
        self.left -= size
        if not 0 <= size <= LARGEST_HEADER or self.left < 0:
            raise tarfile.ReadError("its headers are too large")
        content: bytes = self.file.read(size)
        return content


def _tar_members(tar: tarfile.TarFile, content: Any) -> Iterator[_Member]:
    for entry in tar:
        entry.pax_headers, tar.pax_headers = {}, {}  # applied already, and of any number
        yield _Member(entry, entry.name, entry.size, entry.isdir(), entry.isdir() or entry.isreg())
    tar.fileobj = content
    content.seek(tar.offset)
    if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # for tarfile, any end of the file is one
        raise tarfile.ReadError("its end is missing")
    left = LONGEST_END
    while read := len(content.read(CHUNK)):  # the checksum of a gz file comes after its last byte
        left -= read
        if left < 0:
            raise tarfile.ReadError(f"more than {LONGEST_END:,} bytes follow its end")


def _zip_member(entry: zipfile.ZipInfo) -> _Member:
    is_plain = (
        stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        and not entry.flag_bits & 1  # encrypted
        # zipfile unpacks blocks of other kinds to any size at once
        and entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    )
    return _Member(entry, entry.orig_filename, entry.file_size, entry.is_dir(), is_plain)


def _extract_one(archive: Path, opened: Any, one: _Member, folder: Path) -> None:
    """Write a member below a folder, under its path in the archive."""
    try:
        with _damage(archive):
            if isinstance(opened, tarfile.TarFile):
                opened.extract(one.entry, folder, set_attrs=False, filter="data")  # type: ignore[arg-type]
            else:
                opened.extract(one.entry, folder)
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno:
            place = folder / named(one.name)
            raise UserError(f"{place}: cannot be written ({cause.strerror})") from cause
        raise


def _wanted(archive: Path, listed: list[_Member], names: Sequence[str]) -> list[_Member]:
    """Return the members of these names, and those in folders of these names."""
    wanted = {PurePosixPath(name): name for name in names}
    chosen, met = [], set()
    for one in listed:
        by = wanted.keys() & {one.path, *one.path.parents}
        met |= by
        if by:
            chosen.append(one)
    for path, name in wanted.items():
        if path not in met:
            raise _missing(archive, listed, name)
    return chosen


def _missing(archive: Path, listed: list[_Member], name: str) -> UserError:
    files = [str(one.path) for one in listed if not one.is_folder]
    near = difflib.get_close_matches(name, files, n=SHOWN, cutoff=0.5) or files[:SHOWN]
    held = ", ".join(map(named, near))
    return UserError(f"{archive}: has no member {shown(name)}; it holds {len(files)} files, such as {held}")
