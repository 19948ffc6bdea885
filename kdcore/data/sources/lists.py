"""Read the lists of images and classes that come with published data sets."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from kdcore.data.sources.folders import SUFFIXES, visible_files
from kdcore.system.errors import UserError, shown


def pairs(path: Path, form: str, separator: str | None = None) -> dict[str, str]:
    """Return the second field of every line of a list by its first; `entries` explains arguments and errors.

    Raises:
        UserError: two lines have the same first field.
    """
    lines = list(entries(path, form, separator))
    check_once((line[0] for line in lines), path)
    return {line[0]: line[1] for line in lines}


def check_once(names: Iterable[str], path: Path) -> None:
    """Refuse names that a list has more than once.

    Raises:
        UserError: names one.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: {len(twice)} entries occur more than once, such as {shown(twice[0])}; keep one of each"
        )


def say_unlisted(folder: Path, names: Collection[str], path: Path) -> None:
    """Say on stderr how many images below a folder are left out, for a list does not name them."""
    listed = set(names)
    others = [file for file in visible_files(folder) if file.suffix.lower() in SUFFIXES]
    others = [file for file in others if file.relative_to(folder).as_posix() not in listed]
    if others:
        print(f"{path}: does not list {len(others)} images, such as {min(others)}; they are left out", file=sys.stderr)


def entries(path: Path, form: str, separator: str | None = None, fields: int = 2) -> Iterator[list[str]]:
    """Yield the fields of every line of a list that is not blank.

    Args:
        path: the list, text in UTF-8.
        form: describes a line, for messages.
        separator: stands between fields; None splits at white space, which the last field may hold.
        fields: least number of fields of a line.

    Raises:
        UserError: it cannot be read, is not text, or has a shorter line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); is it as published?") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error}); is it as published?") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            parts = line.strip().split(separator, -1 if separator else fields - 1)
            if len(parts) < fields:
                raise UserError(f"{path}, line {number}: expected {form}, not {line!r}; is it as published?")
            yield parts
