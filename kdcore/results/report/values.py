"""Tables of the page: values with what they are sorted by, columns, sheets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdcore.results.entry import Entry, Place

NOTHING = "–"
"""Where the matrix declares nothing, or nothing was published."""
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Value:
    """One cell of a table."""

    text: str
    key: float | None = None
    """Number to sort by; None sorts by the text."""
    is_strong: bool = False
    """Whether it is printed bold."""
    is_absent: bool = False
    """Whether it is sorted last in either direction."""
    sign: str = ""
    """†, §, ↓ or ≈ behind the text; the notes explain them."""
    about: str = ""
    """Explains the sign."""


ABSENT = Value(NOTHING, is_absent=True)


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    title: str
    is_number: bool = True
    about: str = ""
    """Explains the column, where its title does not."""


@dataclass(frozen=True)
class Sheet:
    """A table whose rows a reader can sort; the first `heads` columns name the row."""

    title: str
    columns: tuple[Column, ...]
    rows: list[list[Value]]
    heads: int = 1
    of: Sequence[tuple[Place, ...]] = ()
    """The rows of results that each line is of; empty for a table that filters leave alone."""
    starts: frozenset[int] = frozenset()
    """The numbers of the lines that begin a group."""


def number(value: float | None, digits: int = 2, *, is_strong: bool = False) -> Value:
    """Format a number for people, and keep it for sorting; None is a dash."""
    if value is None:
        return ABSENT
    return Value(f"{value:,.{digits}f}".replace("-", MINUS), float(value), is_strong)


def signed(value: float | None) -> str:
    """Format a difference with its sign; None is a dash."""
    return NOTHING if value is None else f"{value:+.2f}".replace("-", MINUS)


def difference(value: float | None, *, is_strong: bool = False) -> Value:
    """Format a difference for people, and keep it for sorting; None is a dash."""
    return ABSENT if value is None else Value(signed(value), value, is_strong)


def p_value(value: float | None) -> Value:
    """Format a p-value for people, and keep it for sorting; None is a dash."""
    return ABSENT if value is None else Value(p_text(value), value)


def p_text(value: float) -> str:
    """Format a p-value with three decimals."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def with_signs(value: Value, entry: Entry) -> Value:
    """Mark a row's value with ↓ where it lies below the student alone, with § where its budget is another one."""
    return replace(value, sign=entry.signs.strip(), about=about_signs(entry))


def about_signs(entry: Entry) -> str:
    """Explain a row's marks."""
    below = ["below the student trained alone"] if entry.is_below_student else []
    return "; ".join([*below, *([about_budget(entry)] if entry.budget else [])])


def about_budget(entry: Entry) -> str:
    """Say by what a row's training differs from what the caption says."""
    return f"trained with another budget: {' and '.join(entry.budget)}"
