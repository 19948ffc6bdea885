"""The heat maps of the page: gains over the plain rows, and over the students trained alone."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from kdcore.matrix.cell import BASE
from kdcore.results.entry import MISSING, OVER, PLAIN, STUDENT, Entry, Place
from kdcore.results.report.values import NOTHING, about_signs, p_text, signed
from kdcore.results.row import GROUPS
from kdcore.results.rows import Results

STRONGEST = 0.95
"""Quantile of absolute gains that has the strongest colour, so that one failed cell does not make the others pale."""
TITLES = {PLAIN: "Gain over each method's plain row", STUDENT: "Gain over the student trained alone"}
"""The maps, by the kind of their gains."""


@dataclass(frozen=True)
class Tile:
    """One gain in the heat map."""

    text: str
    about: str
    kind: str
    """gain, loss, plain, missing, excluded or nothing."""
    strength: int = 0
    """Strength of the colour in percent."""
    is_strong: bool = False
    of: tuple[Place, ...] = ()
    """The row that it is of; none where the matrix has no such row."""


@dataclass(frozen=True)
class Line:
    """One line of tiles."""

    names: tuple[str, ...]
    """What names it, one for each of `HeatMap.heads`."""
    tiles: list[Tile]


@dataclass(frozen=True)
class HeatMap:
    """(Methods x pairs x variants) x (stand x M), or, of methods without scales, (methods x variants) x pairs."""

    kind: str
    """What the gains are over (see `OVER`)."""
    title: str
    heads: tuple[str, ...]
    """What the names of a line are of."""
    columns: list[str]
    groups: dict[str, list[Line]]
    """Lines by the title of the methods' group."""
    limit: float
    """The gain with the strongest colour, percentage points."""

    @property
    def over(self) -> str:
        """What the gains are over, in words."""
        return OVER[self.kind]

    @property
    def lines(self) -> list[Line]:
        """The lines of all groups."""
        return [line for lines in self.groups.values() for line in lines]


def heat_maps(results: Results) -> list[HeatMap]:
    """Make the heat maps of all kinds that the matrix has gains of; that over the plain rows wherever there is one.

    Methods without scales have one of their own, over the student. None for a matrix without any method.
    """
    scaled = [entry for entry in results.entries if entry.row.scale is not None]
    others = [entry for entry in results.entries if entry.row.scale is None and entry.row.group != "alone"]
    found = []
    for kind in TITLES:
        if scaled and (kind == PLAIN or any(kind in entry.gains for entry in scaled)):
            found.append(_over_scales(results, scaled, kind))
    if any(STUDENT in entry.gains for entry in others):
        found.append(_over_pairs(results, others))
    return found


def _over_scales(results: Results, shown: list[Entry], kind: str) -> HeatMap:
    """Make a heat map with a line per method, pair and variant, and a column per M, without stand and with it."""
    methods = list(dict.fromkeys(entry.row.method for entry in shown))
    pairs, variants = results.card["pairs"], list(results.card["variants"])

    def order(entry: Entry) -> tuple[int, int, int]:
        return methods.index(entry.row.method), pairs.index(entry.pair), variants.index(entry.row.variant)

    def names(entry: Entry) -> tuple[str, ...]:
        pair = entry.pair if entry.row.variant == BASE else f"{entry.pair}, {entry.row.variant}"
        return str(entry.row.method).upper(), pair

    columns = {entry.row.axes: f"M={entry.row.m}{', stand' * bool(entry.row.stand)}" for entry in shown}
    in_order = sorted(shown, key=order)
    lines = _lines(in_order, kind, names, lambda entry: entry.row.axes, list(columns))
    return HeatMap(kind, TITLES[kind], ("Method", "Pair"), list(columns.values()), *lines)


def _over_pairs(results: Results, shown: list[Entry]) -> HeatMap:
    """Make a heat map of methods without scales: a line per method and variant, a column per pair."""
    pairs = results.card["pairs"]
    lines = _lines(shown, STUDENT, lambda entry: (entry.row.label,), lambda entry: entry.pair, pairs)
    return HeatMap(STUDENT, f"{TITLES[STUDENT]}: methods without scales", ("Method",), pairs, *lines)


def _lines(
    shown: list[Entry],
    kind: str,
    names: Callable[[Entry], tuple[str, ...]],
    column: Callable[[Entry], Hashable],
    columns: Sequence[Hashable],
) -> tuple[dict[str, list[Line]], float]:
    """Put entries into lines, by the title of their group; returns these, and the gain with the strongest colour."""
    sizes = sorted(abs(entry.gains[kind].points) for entry in shown if kind in entry.gains)
    limit = max(sizes[int(STRONGEST * (len(sizes) - 1))], 0.1) if sizes else 1.0
    found: dict[str, dict[tuple[str, ...], dict[Hashable, Entry]]] = {group: {} for group in GROUPS}
    for entry in shown:
        found[entry.row.group].setdefault(names(entry), {})[column(entry)] = entry
    groups = {
        GROUPS[group]: [
            Line(name, [_tile(held[key], kind, limit) if key in held else _no_row(name) for key in columns])
            for name, held in lines.items()
        ]
        for group, lines in found.items()
        if lines
    }
    return groups, limit


def _no_row(names: tuple[str, ...]) -> Tile:
    return Tile(NOTHING, f"{', '.join(names)}: the variant changes nothing here", "nothing")


def _tile(entry: Entry, kind: str, limit: float) -> Tile:
    return replace(_shown(entry, kind, limit), of=(entry.place,))


def _shown(entry: Entry, kind: str, limit: float) -> Tile:
    where = f"{entry.pair}, {entry.row.label}"
    if entry.missing:
        return Tile(MISSING, f"{where}: {len(entry.missing)} of {entry.seeds} seeds have no result", "missing")
    if entry.lacks:
        return Tile(entry.lacks, f"{where}: params.yaml excludes it", "excluded")
    noise = "" if entry.deviation is None else f" ± {entry.deviation:.2f}"
    about = ", ".join(filter(None, (f"{where}: top-1 {entry.mean:.2f}{noise}", about_signs(entry))))
    if kind == PLAIN and entry.row.is_plain and entry.row.variant == BASE:
        return Tile(f"{entry.mean:.2f}{entry.signs}", f"{about}, the plain row", "plain")
    gain = entry.gains.get(kind)
    if gain is None:
        missing = "plain row" if kind == PLAIN else "student trained alone"
        return Tile(NOTHING, f"{about}; no complete {missing} to compare with", "nothing")
    about += f", gain over {gain.over.label} {signed(gain.points)}{gain.n}"
    about += ", which was trained with other settings" if gain.is_unlike else ""
    if gain.compared is not None:
        about += f" ± {gain.compared.margin:.2f}, p {p_text(gain.compared.p)}"
    if gain.adjusted is not None:
        about += f", adjusted {p_text(gain.adjusted)}"
    about += ", which seeds support" if gain.is_supported else ""
    strength = round(100 * min(1.0, abs(gain.points) / limit))
    tone = "loss" if gain.points < 0 else "gain"
    return Tile(signed(gain.points) + gain.n + entry.signs, about, tone, strength, gain.is_supported)
