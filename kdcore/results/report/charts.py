"""The figures of the report: which charts there are, and what each of them shows."""

from dataclasses import dataclass, field

import pandas as pd

from kdcore import catalog
from kdcore.results.ablation import Ablation, Line, ablations
from kdcore.results.entry import Entry, Place
from kdcore.results.report.svg import COLOURS, Axis, Chart, Style, linear, powers, whole
from kdcore.results.row import Row, by_size, common_label, printed
from kdcore.results.rows import Results

POINTS = 60
"""How many epochs a line shows at most: evenly spaced ones, always with the first and the last."""
TEST, VALIDATION, TRAIN, RATE = "test_top1", "val_top1", "train_top1", "lr"
ACCURACIES = (TEST, VALIDATION, TRAIN)
"""Columns of a history; all others, except its cell and epoch, are losses."""
LATE = "late_test_top1"
TITLES = {
    TEST: "Test accuracy (%)",
    LATE: "Test accuracy, last third (%)",
    VALIDATION: "Validation accuracy (%)",
    TRAIN: "Train accuracy (%)",
    "loss": "Total loss",
    "ce": "Cross-entropy",
    RATE: "Learning rate",
}
MEASURED = {"top1": "Measured (%)", "top1_best": "Measured, of the best epoch (%)"}
ALONE = "Without scales"
"""Title of the group of rows without scales: students trained alone, and feature methods."""


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    style: Style
    is_hollow: bool = False
    """Whether a mark is an outline only."""
    has_mark: bool = False
    """Whether a line is shown with its mark, which tells it from lines of its colour."""
    of: tuple[Place, ...] = ()
    """The rows that it explains; none where it does not depend on what is chosen."""


@dataclass
class Group:
    """Charts that share a legend: those of one method of a pair, or of all the pair's rows without scales."""

    title: str
    keys: list[Key]
    charts: list[Chart] = field(default_factory=list)


@dataclass
class Figure:
    """The content of one heading: groups of charts, or the reason why there are none."""

    title: str
    groups: list[Group] = field(default_factory=list)
    lacks: str = ""
    of: tuple[Place, ...] = ()
    """The rows that it is about; none where its charts alone say it."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one row over the epochs that all its seeds have and that are drawn."""

    row: Row
    epochs: list[int]
    seeds: pd.DataFrame
    """Values, (epochs, seeds)."""
    is_whole: bool
    """Whether every seed is there; otherwise there is no mean."""

    @property
    def late(self) -> "Curve":
        """The last third of the curve, where rows differ most visibly."""
        first = self.epochs[-1] - (self.epochs[-1] - self.epochs[0]) // 3
        kept = [epoch for epoch in self.epochs if epoch >= first]
        return Curve(self.row, kept, self.seeds.loc[kept], self.is_whole)


def published(results: Results) -> Group | None:
    """Draw measured over published accuracies with the diagonal; None where nothing measured was also published."""
    points = results.beside_published
    if not points:
        return None
    styles = _pair_styles(results)
    ends = [
        value + sign * (entry.deviation or 0)
        for entry, figure, mean in points
        for value in (figure.top1, mean)
        for sign in (-1, 1)
    ]
    title, axis = "Measured over published top-1 accuracy", linear("Published (%)", ends, ticks=6)
    above = sum(mean > figure.top1 for _, figure, mean in points)
    text = (
        f"Scatter plot of {len(points)} rows; {above} lie above the diagonal, where more was measured than published. "
        "Bars: sample standard deviation over seeds. The table of all rows has every value."
    )
    doubts = sum(bool(figure.doubt) for _, figure, _ in points)
    text += f" Hollow: the published figures of {doubts} rows are doubtful." if doubts else ""
    measured = linear(MEASURED[results.card["accuracy"]], ends, ticks=6)
    chart = Chart(title, text, axis, measured, 440, 420, has_diagonal=True)
    for entry, figure, mean in points:
        label = f"{entry.pair}, {entry.row.label}: measured {mean:.2f}{_noise(entry)}, published {figure.top1:.2f}"
        label += f"; doubtful: {figure.doubt}" if figure.doubt else ""
        chart.mark(
            label,
            styles[entry.pair],
            figure.top1,
            mean,
            deviation=entry.deviation,
            is_hollow=bool(figure.doubt),
            of=(entry.place,),
        )
    keys = _keys(styles, [entry.place for entry, _, _ in points])
    if doubts:
        keys.append(Key("Doubtful figure", Style(is_context=True), is_hollow=True))
    return Group(title, keys, [chart])


def agreement(results: Results) -> Group | None:
    """Draw accuracy over agreement with the teacher, a mark per cell; None where no cell has been evaluated."""
    styles = _pair_styles(results)
    cells = [
        (entry.place, cell)
        for entry in results.entries
        if entry.row.method is not None
        for cell in results.measured(entry)
        if "agreement" in cell
    ]
    if not cells:
        return None
    title = "Accuracy over agreement with the teacher"
    x = linear("Test images on which student and teacher agree (%)", [cell["agreement"] for _, cell in cells], ticks=5)
    y = linear("Top-1 accuracy, last epoch (%)", [cell["top1"] for _, cell in cells], ticks=6)
    text = f"Scatter plot of {len(cells)} cells, one mark each, by pair. The table of all rows has means over seeds."
    chart = Chart(title, text, x, y, 440, 420)
    for place, cell in cells:
        label = f"{cell['name']}: agreement {cell['agreement']:.2f}, top-1 {cell['top1']:.2f}"
        chart.mark(label, styles[place[0]], cell["agreement"], cell["top1"], radius=3.2, of=(place,))
    return Group(title, _keys(styles, [place for place, _ in cells]), [chart])


def curves(results: Results) -> list[Figure]:
    """Draw training curves: a figure per pair, a group per method, a chart per quantity, with axes shared by groups."""
    return [_curve_figure(results, pair) for pair in results.card["pairs"]]


def ablated(results: Results) -> list[Figure]:
    """Draw accuracy over each number that variants vary: a figure per number, a chart per pair."""
    return [_ablation_figure(found) for found in ablations(results)]


def _ablation_figure(found: Ablation) -> Figure:
    styles = _line_styles(found)
    whole_rows = [entry for line in found.lines for entry in line.entries.values() if entry.mean is not None]
    if not whole_rows:
        return Figure(found.key, lacks="No row of this ablation has all its seeds yet.")
    is_wide = found.ticks[0] > 0 and found.ticks[-1] > 10 * found.ticks[0]
    x = powers(found.key, found.ticks) if is_wide else linear(found.key, found.ticks)
    charts = []
    for pair in dict.fromkeys(line.pair for line in found.lines):
        lines = [line for line in found.lines if line.pair == pair]
        told = "; ".join(f"{line.label}: {_told(line)}" for line in lines)
        y = linear(f"Top-1 of {pair} (%)", _with_bars(whole_rows))
        text = f"Line chart of means over seeds; bars: sample standard deviation. {told}."
        chart = Chart(f"Accuracy over {found.key}, {pair}", text, x, y, 360, 280)
        for line in lines:
            points = [(value, entry.mean) for value, entry in line.entries.items() if entry.mean is not None]
            if points:
                places = tuple(entry.place for entry in line.entries.values())
                chart.line(line.label, styles[line.label], points, of=places)
            for value, mean in points:
                entry = line.entries[value]
                label = f"{entry.row.label}: {mean:.2f}{_noise(entry)}"
                bar, style = entry.deviation, styles[line.label]
                chart.mark(label, style, value, mean, radius=3.2, deviation=bar, of=(entry.place,))
        charts.append(chart)
    of: dict[str, tuple[Place, ...]] = {}
    for line in found.lines:
        of[line.label] = (*of.get(line.label, ()), *(entry.place for entry in line.entries.values()))
    keys = [Key(label, style, has_mark=True, of=of[label]) for label, style in styles.items()]
    return Figure(found.key, [Group(f"Accuracy over {found.key}", keys, charts)])


def _with_bars(entries: list[Entry]) -> list[float]:
    """Return the ends of the error bars of rows that have all their seeds."""
    return [(entry.mean or 0) + sign * (entry.deviation or 0) for entry in entries for sign in (-1, 1)]


def _noise(entry: Entry) -> str:
    """Write the deviation over seeds behind a mean; nothing where there is none."""
    return "" if entry.deviation is None else f" ± {entry.deviation:.2f}"


def _line_styles(found: Ablation) -> dict[str, Style]:
    """Tell methods and other values apart by colour, stand by dashes, scales by shape."""
    colours = list(dict.fromkeys((line.row.method, line.change) for line in found.lines))
    scales = list(dict.fromkeys(line.row.scale for line in found.lines))
    return {
        line.label: Style(
            colours.index((line.row.method, line.change)), int(bool(line.row.stand)), scales.index(line.row.scale)
        )
        for line in found.lines
    }


def _told(line: Line) -> str:
    return ", ".join(f"{value:g} {entry.lacks or f'{entry.mean:.2f}'}" for value, entry in line.entries.items())


def _curve_figure(results: Results, pair: str) -> Figure:
    history = results.histories.get(pair)
    begun = set() if history is None else set(history["cell"])
    shown = [entry for entry in results.entries_of(pair) if begun & set(results.cells_of(entry))]
    entries = {title: group for title, group in groups(results, pair).items() if any(e in shown for e in group)}
    if history is None or not entries:
        return Figure(pair, lacks="No cell of this pair has a history yet.", of=places_of(results, pair))
    drawn = {title: _curves(results, history, group) for title, group in entries.items()}
    axes = _axes(drawn)
    drawn_groups = []
    for title, by_quantity in drawn.items():
        styles = dict(zip((entry.row for entry in entries[title]), row_styles(entries[title]), strict=True))
        keys = [
            Key(entry.row.label + _incomplete(entry), styles[entry.row], of=(entry.place,))
            for entry in entries[title]
            if entry in shown
        ]
        charts = [_curve_chart(pair, title, axes[quantity], lines, styles) for quantity, lines in by_quantity.items()]
        drawn_groups.append(Group(title, keys, charts))
    return Figure(pair, drawn_groups, of=places_of(results, pair))


def groups(results: Results, pair: str) -> dict[str, list[Entry]]:
    """Group a pair's rows by logit method and variant, those without scales first, without the teacher.

    Rows without scales are together, or, where they are more than there are colours, in groups that each begin with the
    student trained alone.
    """
    found: dict[tuple[str, str], list[Entry]] = {}
    alone = []
    for entry in results.entries_of(pair):
        if entry.row.method is not None and entry.declared:
            if entry.row.scale is None:
                alone.append(entry)
            else:
                found.setdefault((entry.row.method, entry.row.variant), []).append(entry)
    return {
        **_without_scales(alone),
        **{common_label(entry.row for entry in entries): entries for entries in found.values()},
    }


def _without_scales(entries: list[Entry]) -> dict[str, list[Entry]]:
    if len(entries) <= COLOURS:
        return {ALONE: entries} if entries else {}
    students = [entry for entry in entries if entry.row == Row(catalog.VANILLA)]
    others = [entry for entry in entries if entry not in students]
    size = COLOURS - len(students)
    parts = [others[first : first + size] for first in range(0, len(others), size)]
    return {f"{ALONE}: {part[0].row.label} to {part[-1].row.label}": [*students, *part] for part in parts}


def row_styles(entries: list[Entry]) -> list[Style]:
    """Tell a group's rows apart: scales by colour and stand by dashes; every row without scales gets its own colour."""
    scales = sorted({entry.row.scale for entry in entries if entry.row.scale is not None}, key=by_size)
    return [
        Style(i, i // COLOURS, i)
        if entry.row.scale is None
        else Style(scales.index(entry.row.scale), int(bool(entry.row.stand)), scales.index(entry.row.scale))
        for i, entry in enumerate(entries)
    ]


def _pair_styles(results: Results) -> dict[str, Style]:
    return {pair: Style(i, 0, i) for i, pair in enumerate(results.card["pairs"])}


def _keys(styles: dict[str, Style], shown: list[Place]) -> list[Key]:
    """Make the legend of marks whose colours are pairs."""
    places = {pair: tuple(dict.fromkeys(place for place in shown if place[0] == pair)) for pair in styles}
    return [Key(pair, style, of=places[pair]) for pair, style in styles.items() if places[pair]]


def places_of(results: Results, pair: str) -> tuple[Place, ...]:
    """Return the places of all rows of a pair."""
    return tuple(entry.place for entry in results.entries_of(pair))


def _incomplete(entry: Entry) -> str:
    return f" ({len(entry.values)} of {entry.seeds} seeds, no mean)" if entry.missing else ""


def _curves(results: Results, history: pd.DataFrame, entries: list[Entry]) -> dict[str, list[Curve]]:
    """Collect the curves of a group's rows by quantity: accuracies, losses, learning rate."""
    columns = [name for name in history.columns if name not in ("cell", "epoch", *ACCURACIES, RATE)]
    by_quantity: dict[str, list[Curve]] = {}
    for entry in entries:
        of_row = history[history["cell"].isin(results.cells_of(entry))]
        table = of_row.pivot_table(index="epoch", columns="cell")
        for quantity in (*ACCURACIES, *columns, RATE):
            if quantity in table:
                seeds = _thinned(pd.DataFrame(table[quantity]).dropna(), is_stepped=quantity == RATE)
                if len(seeds):
                    curve = Curve(entry.row, [int(epoch) for epoch in seeds.index], seeds, not entry.missing)
                    by_quantity.setdefault(quantity, []).append(curve)
    if TEST in by_quantity:
        by_quantity[LATE] = [curve.late for curve in by_quantity[TEST]]
    return {key: by_quantity[key] for key in (TEST, LATE, VALIDATION, TRAIN, *columns, RATE) if key in by_quantity}


def _thinned(seeds: pd.DataFrame, *, is_stepped: bool) -> pd.DataFrame:
    """Keep about POINTS epochs: the ends of the steps of a quantity that mostly stays, else evenly spaced ones."""
    last = len(seeds) - 1
    if is_stepped:
        moves = seeds.diff().abs().gt(0).any(axis=1)
        ends = seeds[moves | moves.shift(-1, fill_value=True) | (seeds.index == seeds.index[0])]
        if len(ends) <= POINTS:
            return ends
    if last < POINTS:
        return seeds
    return seeds.iloc[sorted({round(i * last / (POINTS - 1)) for i in range(POINTS)})]


def _axes(drawn: dict[str, dict[str, list[Curve]]]) -> dict[str, tuple[Axis, Axis]]:
    """Make the two axes of every quantity, over all groups of a pair."""
    lines: dict[str, list[Curve]] = {}
    for by_quantity in drawn.values():
        for quantity, some in by_quantity.items():
            lines.setdefault(quantity, []).extend(some)
    axes = {}
    for quantity, drawn_lines in lines.items():
        values = [float(value) for curve in drawn_lines for value in curve.seeds.to_numpy().ravel()]
        title = TITLES.get(quantity, f"{printed(quantity)} loss")
        epochs = whole("Epoch", min(c.epochs[0] for c in drawn_lines), max(c.epochs[-1] for c in drawn_lines))
        if quantity == RATE and min(values) > 0:
            axes[quantity] = epochs, powers(title, values)
        else:
            from_zero = quantity not in (LATE, *ACCURACIES) and min(values) >= 0
            axes[quantity] = epochs, linear(title, values, starts_at=0 if from_zero else None)
    return axes


def _curve_chart(pair: str, title: str, axes: tuple[Axis, Axis], lines: list[Curve], styles: dict[Row, Style]) -> Chart:
    epochs, axis = axes
    ends = "; ".join(f"{curve.row.label} {curve.seeds.iloc[-1].mean():.4g}" for curve in lines if curve.is_whole)
    chart = Chart(
        f"{axis.title} of {pair}, {title}",
        f"Line chart over epochs {epochs.low:g} to {epochs.high:g}. Means over seeds at the end: {ends or 'none'}.",
        epochs,
        axis,
    )
    sharing: dict[str, list[Curve]] = {}
    for curve in lines:
        means = chart.path(zip(curve.epochs, curve.seeds.mean(axis=1), strict=True))
        sharing.setdefault(means if curve.is_whole else str(curve.row), []).append(curve)
    for curve, *others in sharing.values():
        of = tuple((pair, one.row) for one in (curve, *others))
        if not curve.is_whole:
            for name in curve.seeds:
                seed = zip(curve.epochs, curve.seeds[name], strict=True)
                chart.line(str(name), styles[curve.row], seed, is_thin=True, of=of)
            continue
        points, low, high = (
            list(zip(curve.epochs, values, strict=True))
            for values in (curve.seeds.mean(axis=1), curve.seeds.min(axis=1), curve.seeds.max(axis=1))
        )
        several = low != high
        chart.line(curve.row.label, styles[curve.row], points, low=low if several else (), high=high * several, of=of)
    return chart
