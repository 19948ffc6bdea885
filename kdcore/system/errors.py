"""Errors for users, printed without a traceback; texts for messages; the signs of a full disk or memory."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

OUT_OF_MEMORY, FULL_DISK = 71, 74
"""Exit codes of stages (EX_OSERR, EX_IOERR); a sweep then starts no other stage that would fail alike."""
FULL = (errno.ENOSPC, errno.EDQUOT)
CUT_OFF = re.compile(r"^\d+ requested and \d+ written$")
"""The only sign of a full disk in NumPy's errors; safetensors passes on the system's text without its number."""

SHOWN = 60
"""Most characters of a value in a message."""
BRACKETS = {list.__repr__: ("[", "]"), tuple.__repr__: ("(", ")"), dict.__repr__: ("{", "}")}
"""The repr of a builtin collection -> the brackets that it writes."""


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, what is allowed and what to do. Exit code 2."""


class RunError(Exception):
    """A run that failed on its own: says which, when, and what to try. Exit code 1."""


def shown(value: object) -> str:
    """Write a value for a message, cut short: a hostile file may make it huge, or nest aliases in it. Of a long text
    both ends are kept, for names of classes and paths differ at their ends.
    """
    if isinstance(value, str) and len(value) > SHOWN - 2:
        end = repr(value[-SHOWN:])[-SHOWN // 3 :]
        return f"{repr(value[:SHOWN])[: SHOWN - 3 - len(end)]}...{end}"
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > SHOWN:
            return f"{text[: SHOWN - 3]}..."
    return text


def _pieces(value: object) -> Iterator[str]:
    """Yield the text that repr() would give, piece by piece."""
    if not isinstance(value, list | tuple | dict) or type(value).__repr__ not in BRACKETS:
        yield repr(value)
        return
    start, end = BRACKETS[type(value).__repr__]
    yield start
    for number, parts in enumerate(value.items() if isinstance(value, dict) else zip(value)):
        yield ", " if number else ""
        for place, part in enumerate(parts):
            yield ": " if place else ""
            yield from _pieces(part)
    yield f",{end}" if isinstance(value, tuple) and len(value) == 1 else end


def named(key: object) -> str:
    """Write a key for a message: as it is, unless it is long or would break the line."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= SHOWN else shown(key)


def suggest(name: object, known: Iterable[str], most: int = 1) -> str:
    """Write a hint for a message about an unknown name: " Did you mean kd?", or "" where no known name is near.

    Args:
        name: what was given.
        known: the names that are allowed.
        most: how many near names the hint may hold.
    """
    near = difflib.get_close_matches(str(name).casefold(), list(known), n=most)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, is that of a full disk or an exceeded quota."""
    seen: list[BaseException] = []  # an error can be raised from itself
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(os.strerror(number) in str(error) for number in FULL) or CUT_OFF.search(str(error)):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that of the machine's or a GPU's memory; torch, which has its own, need not be imported."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in ("allocate memory", "out of memory", "ALLOC_FAILED"))
    )


HOST = re.compile(r"[\w.:%-]+")


def check_address(text: str) -> str:
    """Return an address unchanged, if a web server could be asked for it.

    Raises:
        ValueError: it is of another scheme, holds control characters or a user, or names no host or an impossible port.
    """
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"{shown(text)}: only http and https addresses are allowed")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # refuses what no name server could be asked for
    except ValueError:
        host, port = "", None
    if not text.isprintable() or not HOST.fullmatch(host) or port == 0:
        raise ValueError(f"{shown(text)}: names no host, or an impossible one; expected as in https://host.org/file")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the address at {host}: holds a user or password, which cards and tables would show; ~/.netrc is for them"
        )
    return text
