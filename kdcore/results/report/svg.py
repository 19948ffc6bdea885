"""Charts as numbers: axes, lines and marks in a drawing's own units, ready to be written as SVG.

The template of the report turns a `Chart` into SVG; colours, dashes and shapes are classes of its style sheet.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from kdcore.results.entry import Place

LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 42
"""Margins around the area of the data."""
COLOURS, DASHES, SHAPES = 7, 4, 4
"""How many colours, dashes and shapes the style sheet has."""
Points = Iterable[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Data values along one direction."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end."""
        low, high, at = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    @property
    def labels(self) -> list[tuple[float, str]]:
        """Each tick's share and text."""
        return [(self.share(tick), f"{tick:.6g}".replace("-", "\N{MINUS SIGN}")) for tick in self.ticks]


@dataclass(frozen=True)
class Style:
    """Colour, dash and shape of a line or mark, by their numbers in the style sheet."""

    colour: int = 0
    dash: int = 0
    shape: int = 0
    is_context: bool = False
    """Whether it is grey, because the others are compared with it."""

    @property
    def classes(self) -> str:
        """Value of the attribute `class`."""
        return f"{'context' if self.is_context else f'c{self.colour % COLOURS}'} d{self.dash % DASHES}"

    @property
    def symbol(self) -> str:
        """Id of the mark's shape."""
        return f"shape-{self.shape % SHAPES}"


@dataclass(frozen=True)
class Line:
    """Connected points."""

    label: str
    style: Style
    path: str
    """Value of the attribute `d`."""
    band: str | None = None
    """Outline of the area around the line, also a value of `d`."""
    is_thin: bool = False
    of: tuple[Place, ...] = ()
    """The rows that it shows: several where theirs coincide."""
    is_dotted: bool = False
    """Whether it is a dot at each point, without a line between them."""


@dataclass(frozen=True)
class Mark:
    """One point with its size and, where it has one, its vertical error bar, in the drawing's units."""

    label: str
    style: Style
    x: float
    y: float
    radius: float
    bar: tuple[float, float] | None = None
    is_hollow: bool = False
    of: tuple[Place, ...] = ()
    """The rows that it shows."""


@dataclass
class Chart:
    """One drawing."""

    title: str
    description: str
    """Text for readers who cannot see the drawing."""
    x: Axis
    y: Axis
    width: int = 300
    height: int = 200
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    has_diagonal: bool = False

    left: ClassVar[int] = LEFT
    """Left edge of the area of the data."""
    top: ClassVar[int] = TOP
    """Upper edge of the area of the data."""

    @property
    def right(self) -> int:
        """Right edge of the area of the data."""
        return self.width - RIGHT

    @property
    def bottom(self) -> int:
        """Lower edge of the area of the data."""
        return self.height - BOTTOM

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Convert a data point to the drawing's units, rounded to tenths."""
        across, up = self.x.share(x), self.y.share(y)
        return (
            round(self.left + across * (self.right - self.left), 1),
            round(self.bottom - up * (self.bottom - self.top), 1),
        )

    def path(self, points: Points) -> str:
        """Connect data points; returns the value of the attribute `d`."""
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in (self.at(*point) for point in points))

    def line(
        self,
        label: str,
        style: Style,
        points: Points,
        *,
        low: Points = (),
        high: Sequence[tuple[float, float]] = (),
        is_thin: bool = False,
        of: tuple[Place, ...] = (),
    ) -> None:
        """Draw a line through data points, with an area between `low` and `high` where there are any."""
        band = self.path([*low, *reversed(high)]) + "Z" if high else None
        self.lines.append(Line(label, style, self.path(points), band, is_thin, of))

    def dots(self, label: str, style: Style, points: Points, *, of: tuple[Place, ...] = ()) -> None:
        """Draw many small points, which share one label and take a tenth of the text of marks."""
        path = "".join(f"M{x:g} {y:g}h0" for x, y in (self.at(*point) for point in points))
        self.lines.append(Line(label, style, path, of=of, is_dotted=True))

    def mark(
        self,
        label: str,
        style: Style,
        x: float,
        y: float,
        *,
        radius: float = 4,
        deviation: float | None = None,
        is_hollow: bool = False,
        of: tuple[Place, ...] = (),
    ) -> None:
        """Draw one data point, with an error bar of `deviation` up and down."""
        bar = None if deviation is None else (self.at(x, y - deviation)[1], self.at(x, y + deviation)[1])
        self.marks.append(Mark(label, style, *self.at(x, y), round(radius, 1), bar, is_hollow, of))


def linear(title: str, values: Iterable[float], *, ticks: int = 4, starts_at: float | None = None) -> Axis:
    """Make an axis over all values, with round ticks at and between its ends.

    Args:
        title: what the axis measures, with its unit.
        values: the values that it must hold.
        ticks: about how many steps it has.
        starts_at: its low end, where the values do not decide it.
    """
    held = [*values, *([] if starts_at is None else [starts_at])]
    low, high = min(held), max(held)
    span = high - low or abs(high) or 1.0
    step = _round_step(span / ticks)
    first = math.floor(low / step + 1e-9) if starts_at is None else starts_at / step
    last = max(math.ceil(high / step - 1e-9), first + 1)
    marks = tuple(round((first + i) * step, 12) for i in range(round(last - first) + 1))
    return Axis(title, marks[0], marks[-1], marks)


def whole(title: str, first: int, last: int) -> Axis:
    """Make an axis of epochs, from the first to the last, with round ticks between."""
    last = max(last, first + 1)
    step = max(1, round(_round_step((last - first) / 4)))
    ticks = (first, *(tick for tick in range(step, last, step) if first + step / 2 <= tick <= last - step / 2), last)
    return Axis(title, first, last, ticks)


def powers(title: str, values: Iterable[float]) -> Axis:
    """Make a logarithmic axis over positive values, with ticks at powers of ten."""
    held = list(values)
    low, high = math.floor(math.log10(min(held)) + 1e-9), math.ceil(math.log10(max(held)) - 1e-9)
    high = max(high, low + 1)
    ticks = tuple(float(f"1e{power}") for power in range(low, high + 1, max(1, (high - low) // 4)))
    return Axis(title, 10.0**low, 10.0**high, ticks, is_log=True)


def _round_step(step: float) -> float:
    """Round a step to the nearest of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * min((1, 2, 2.5, 5, 10), key=lambda nice: abs(math.log(nice * power / step)))
