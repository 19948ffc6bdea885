"""Times and numbers in words."""

from collections.abc import Sequence
from math import ceil

from rich.console import Console

WIDTH = 160
"""Columns where nobody's terminal says how many there are."""


def duration(seconds: float | None) -> str:
    """To two units, the last one rounded up to: 45 s, 12 min, 3 h 20 min, 2 d 4 h; a question mark for None."""
    if seconds is None:
        return "?"
    if seconds <= 59:
        return f"{ceil(seconds)} s"
    minutes = ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours + (minutes > 0), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def console() -> Console:
    """For a table: as wide as the terminal; wide enough where there is none, unless COLUMNS says otherwise."""
    made = _Heard(highlight=False)
    return made if made.is_terminal else _Heard(highlight=False, width=max(made.width, WIDTH))


class _Heard(Console):
    """Ends with the error itself when nobody reads it any more, of which `stages.run` knows."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
