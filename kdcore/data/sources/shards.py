"""Find the parquet files that a split consists of, and refuse a part of them and two versions of one split."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcore.data.sources.folders import check_link, unreadable
from kdcore.data.sources.splits import ALL, in_order, is_hidden, role
from kdcore.system.errors import UserError

SUFFIX = ".parquet"
NUMBERED_OF = re.compile(r"(?P<before>.*?)(?P<number>\d+)[-_. ]*of[-_. ]*(?P<count>\d+)(?P<after>.*)", re.IGNORECASE)
NUMBERED = re.compile(
    r"(?P<before>(?:[-._]?(?:part|shard|chunk|batch|file|data))?[-._]?)(?P<number>\d+)(?P<after>.*)", re.IGNORECASE
)
FINGERPRINT = re.compile(r"-[0-9a-f]{16}")
"""What the hubs once wrote behind the number of a part, different for every part."""
UNFINISHED = (
    *(
        "!qb",
        "!ut",
        "aria2",
        "bc!",
        "crdownload",
        "download",
        "filepart",
        "incomplete",
        "opdownload",
        "part",
        "partial",
    ),
    *(
        "temp",
        "tmp",
        "7z",
        "br",
        "bz2",
        "gz",
        "lz4",
        "lzma",
        "rar",
        "sz",
        "tar",
        "tgz",
        "xz",
        "z",
        "zip",
        "zst",
        "zstd",
    ),
)
"""What programs write behind the name of a file that is not whole yet, or packed."""
AFTER = re.compile(rf"(?P<whole>.+{re.escape(SUFFIX)})[^a-z0-9].*", re.IGNORECASE)
"""Names with something behind .parquet, as of unfinished downloads, backups and pointers."""
OTHER_SUFFIXES = (".parq", ".pq", ".pqt", ".prq")
"""Other suffixes that parquet files get."""
LEAST_OTHER = 1000
"""Least number of a lone file that is taken for a year or the like."""
MOST = 5
"""Most files that a message names."""


@dataclass(frozen=True)
class Part:
    """What the name of a file says of its place in a split."""

    file: Path
    whole: tuple[str, ...]
    """What the names of all parts of one split have in common: all but the number."""
    number: str | None = None
    """Its number as the name has it; None if it has none."""
    count: int | None = None
    """How many parts there are, if the name says so."""

    def sibling(self, number: int) -> str:
        """Return the name of another part."""
        split, before, *_ = self.whole
        start, digits = len(split) + len(before), len(str(self.number))
        after = FINGERPRINT.sub("-*", self.file.name[start + digits :])
        return f"{self.file.name[:start]}{number:0{digits}}{after}"


@dataclass(frozen=True)
class Place:
    """A folder in which files of a split may lie."""

    folder: Path
    split: str | None = None
    """The split that the folder is called after, of which are all its files; None where the files' names say it."""

    def files(self) -> list[Path]:
        """List the parquet files in the folder, without hidden ones.

        Raises:
            UserError: a part would be left out, for a link leads nowhere, it lies in a folder further down, or has
                another name.
        """
        try:
            visible = [path for path in self.folder.iterdir() if not is_hidden(path.name)]
        except OSError as error:
            unreadable(error)
        for path in visible:
            if self.split is not None or role(_divided(path)[0]) in ALL:
                _check_name(path)
        deeper = self.folder.glob(f"[!.]*/**/[!.]*{SUFFIX}") if self.split is not None else ()
        for path in deeper:
            raise UserError(
                f"{path}: lies further down than {self.folder}, which holds the files of {self.split}; move it there, "
                "or away"
            )
        listed = [path for path in visible if path.suffix.lower() == SUFFIX]
        for path in listed:
            check_link(path)
        return sorted((path for path in listed if path.is_file()), key=in_order)

    def parts(self, names: Sequence[str]) -> list[Part]:
        """List the files of the split that has one of these names."""
        if self.split is not None:
            return [_part(file, "", file.stem) for file in self.files()] if self.split in names else []
        divided = [(file, *_divided(file)) for file in self.files()]
        return [_part(file, split, rest) for file, split, rest in divided if role(split) in names]


def _check_name(path: Path) -> None:
    """Refuse a file that may be a part of a split, but for what stands behind its name."""
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise UserError(f"{path}: may be a part, but ends in {path.suffix}; rename it to {SUFFIX}, or move it away")
    match = AFTER.fullmatch(path.name)
    if match and re.search(rf"[.]({'|'.join(UNFINISHED)})(\W?\d+)*$", path.name, re.IGNORECASE):
        raise UserError(f"{path}: is an unfinished download, or packed; finish or unpack it, or move it away")
    if match and not path.with_name(match["whole"]).exists():
        raise UserError(f"{path}: stands for {match['whole']}, which is not there; get that one, or move this away")


def find(root: Path, names: Sequence[str]) -> list[Path]:
    """List the files of one split.

    They are called <split>-*.parquet, <split>.*.parquet or <split>.parquet and lie in a folder or in one folder of it,
    or they are all files of a folder <split> there.

    Args:
        root: the folder.
        names: names of the split, as `splits.role` writes them.

    Returns:
        Files in their order; none if there is no such split.

    Raises:
        UserError: they lie in several places, are not all parts of one split, or a part is missing.
    """
    found = {place.folder: parts for place in places(root) if (parts := place.parts(names))}
    if len(found) > 1:
        raise UserError(
            f"data.source {root}: has {names[0]} files in several folders, {', '.join(map(str, found))}; name the "
            "one above the files that you want, or move the others away"
        )
    parts = next(iter(found.values()), [])
    if parts:
        _check_one_version(parts)
        _check_complete(parts)
    return [part.file for part in parts]


def places(root: Path) -> list[Place]:
    """List the folders in which files of a split may lie: this one, those in it, and folders of splits in those."""
    if not root.is_dir():
        return []
    below = [_place(folder) for folder in _folders(root)]
    deeper = [_place(inner) for place in below if place.split is None for inner in _folders(place.folder)]
    return [Place(root), *below, *(place for place in deeper if place.split is not None)]


def alike(root: Path, names: Sequence[str]) -> list[str]:
    """Name the files that begin like those of a split, and are not of it, for messages."""
    files = [file for place in places(root) if place.split is None for file in place.files()]
    near = [file for file in files if role(file.name).startswith(tuple(names))]
    return [file.name for file in near if role(_divided(file)[0]) not in ALL]


def check_together(root: Path, train: Sequence[Path], test: Sequence[Path]) -> None:
    """Refuse training and test files in different folders, which may be of different data sets, and a lone part 1 where
    the other split is counted from 0.

    Raises:
        UserError: names both folders, or the part.
    """
    split_folders = {place.folder for place in places(root) if place.split is not None}
    one, two = (f.parent.parent if f.parent in split_folders else f.parent for f in (train[0], test[0]))
    if one != two:
        raise UserError(
            f"data.source {root}: training files are in {one}, test files in {two}; name the folder that holds both, "
            "or move them together"
        )
    for lone, beside in ((train, test), (test, train)):
        part, other = (_part(files[0], *_divided(files[0])) for files in (lone, beside))
        if len(lone) == 1 and part.count is None and part.number == "1" and int(other.number or 1) == 0:
            raise UserError(
                f"{part.file}: is alone, and {other.file.name} is counted from 0; get {part.sibling(0)}, or, if there "
                "is none, rename this one"
            )


def left_out(root: Path, *splits: Sequence[Path]) -> list[Path]:
    """List the parquet files in the folders where splits were found, and in folders beside, that are of none of these
    splits.
    """
    used = {file for files in splits for file in files}
    near = {file.parent for file in used}
    found = places(root)
    near |= {place.folder.parent for place in found if place.split is not None and place.folder in near}
    beside = [Place(folder) for holder in sorted(near) for folder in _folders(holder)]
    around = {place.folder: place for place in (*beside, *found) if place.folder in near or place.folder.parent in near}
    return [file for place in around.values() for file in place.files() if file not in used]


def _folders(folder: Path) -> list[Path]:
    """List the folders in a folder, without hidden ones; beside parquet files there may be millions of images."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if not is_hidden(entry.name) and entry.is_dir())
    except OSError as error:
        unreadable(error)


def _place(folder: Path) -> Place:
    name = role(folder.name.removesuffix(SUFFIX))  # some programs write a table as a folder <name>.parquet
    return Place(folder, name if name in ALL else None)


def _divided(file: Path) -> tuple[str, str]:
    """Divide a file's name into the split, which ends at - or ., and the rest without .parquet."""
    end = re.search("[-.]", file.stem)
    split = file.stem[: end.start()] if end else file.stem
    return split, file.stem[len(split) :]


def _part(file: Path, split: str, rest: str) -> Part:
    if match := NUMBERED_OF.fullmatch(rest):
        after = FINGERPRINT.sub("-*", match["after"])
        return Part(file, (split, match["before"], match["count"], after), match["number"], int(match["count"]))
    if match := NUMBERED.fullmatch(rest):
        return Part(file, (split, match["before"], match["after"]), match["number"])
    return Part(file, (split, rest))


def _check_one_version(parts: list[Part]) -> None:
    versions: dict[tuple[str, ...], list[Part]] = defaultdict(list)
    for part in parts:
        versions[part.whole].append(part)
    if len(versions) > 1:
        each = [same[0].file.name + (f" (one of {len(same)})" if len(same) > 1 else "") for same in versions.values()]
        raise UserError(
            f"{parts[0].file.parent}: holds {', '.join(each[:MOST])}{' ...' if len(each) > MOST else ''}, which are "
            "not parts of one whole; keep one version and move the others away, or, if all belong together, name them "
            f"<split>-00000-of-{len(parts):05}{SUFFIX} and so on"
        )


def _is_no_place(number: str) -> bool:
    """Whether the number of a lone file may count something else than its place: 0 and 1 begin, and 2017 is a year."""
    return number == str(int(number)) and not 1 < int(number) < LEAST_OTHER


def _check_complete(parts: list[Part]) -> None:
    """Refuse parts of which one is missing or there twice; numbers begin at 0 or 1."""
    numbers = [int(part.number) for part in parts if part.number is not None]
    first = parts[0]
    if not numbers and len(parts) > 1:  # train.parquet and train.PARQUET
        names = " and ".join(part.file.name for part in parts[:MOST])
        raise UserError(f"{first.file.parent}: {names} are the same part; move one away")
    if not numbers or (first.count is None and len(parts) == 1 and _is_no_place(str(first.number))):
        return
    twice = [part.file.name for part, number in zip(parts, numbers, strict=True) if numbers.count(number) > 1]
    if twice:
        raise UserError(f"{first.file.parent}: {' and '.join(twice[:MOST])} are the same part; move one away")
    if first.count is None:
        expected = set(range(min(numbers) == 1, max(numbers) + 1))
    else:
        from_1 = 0 not in numbers and first.count in numbers
        expected = set(range(from_1, first.count + from_1))
    if set(numbers) - expected:
        raise UserError(
            f"{first.file.parent}: {parts[-1].file.name} is beyond the last of {first.count} parts; rename it"
        )
    if missing := sorted(expected - set(numbers)):
        names = ", ".join(first.sibling(number) for number in missing[:MOST])
        raise UserError(
            f"{first.file.parent}: holds {len(parts)} of {len(expected)} parts, without {names}"
            f"{' ...' if len(missing) > MOST else ''}; get the missing ones, or, if there are none, number these anew"
        )
