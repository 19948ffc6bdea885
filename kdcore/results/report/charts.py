"""The figures of the report: which charts there are, and what each of them shows."""

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kdcore.results import dvc_plots
from kdcore.results.report.svg import COLOURS, Axis, Chart, Style, linear, powers, whole
from kdcore.results.rows import Entry, Results, Row, by_size

POINTS = 60
"""How many epochs a line shows at most: evenly spaced ones, always with the first and the last."""
TEST, TRAIN, RATE = "test_top1", "train_top1", "lr"
"""Columns of a history; all others, except its cell and epoch, are losses."""
LATE = "late_test_top1"
TITLES = {
    TEST: "Test accuracy (%)",
    LATE: "Test accuracy, last third (%)",
    TRAIN: "Train accuracy (%)",
    "loss": "Total loss",
    "ce": "Cross-entropy",
    RATE: "Learning rate",
}
MEASURED = {"top1": "Measured (%)", "top1_best": "Measured, of the best epoch (%)"}
ALONE = "Without scales"
"""Title of the group of rows without scales: students trained alone, and feature methods."""
TEACHER = "Teacher"


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    style: Style
    is_hollow: bool = False
    """Whether a mark is an outline only."""


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
        noise = "" if entry.deviation is None else f" ± {entry.deviation:.2f}"
        label = f"{entry.pair}, {entry.row.label}: measured {mean:.2f}{noise}, published {figure.top1:.2f}"
        label += f"; doubtful: {figure.doubt}" if figure.doubt else ""
        chart.mark(
            label, styles[entry.pair], figure.top1, mean, deviation=entry.deviation, is_hollow=bool(figure.doubt)
        )
    keys = _keys(styles, {entry.pair for entry, _, _ in points})
    if doubts:
        keys.append(Key("Doubtful figure", Style(is_context=True), is_hollow=True))
    return Group(title, keys, [chart])


def agreement(results: Results) -> Group | None:
    """Draw accuracy over agreement with the teacher, a mark per cell; None where no cell has been evaluated."""
    styles = _pair_styles(results)
    cells = [
        (evaluation["pair"], cell)
        for evaluation in results.evaluations
        for cell in evaluation["cells"]
        if "agreement" in cell
    ]
    if not cells:
        return None
    title = "Accuracy over agreement with the teacher"
    x = linear("Test images on which student and teacher agree (%)", [cell["agreement"] for _, cell in cells], ticks=5)
    y = linear("Top-1 accuracy, last epoch (%)", [cell["top1"] for _, cell in cells], ticks=6)
    text = f"Scatter plot of {len(cells)} cells, one mark each, by pair. The table of all rows has means over seeds."
    chart = Chart(title, text, x, y, 440, 420)
    for pair, cell in cells:
        label = f"{cell['name']}: agreement {cell['agreement']:.2f}, top-1 {cell['top1']:.2f}"
        chart.mark(label, styles[pair], cell["agreement"], cell["top1"], radius=3.2)
    return Group(title, _keys(styles, {pair for pair, _ in cells}), [chart])


def curves(results: Results) -> list[Figure]:
    """Draw training curves: a figure per pair, a group per method, a chart per quantity, with axes shared by groups."""
    return [_curve_figure(results, pair) for pair in results.card["pairs"]]


def reliability(results: Results) -> list[Figure]:
    """Draw reliability diagrams: a figure per pair, a chart per method, seeds pooled, the teacher for comparison."""
    return [_reliability_figure(results, pair) for pair in results.card["pairs"]]


def _reliability_figure(results: Results, pair: str) -> Figure:
    if results.evaluation_of(pair) is None:
        return Figure(pair, lacks="This pair has not been evaluated yet.")
    groups = []
    for title, entries in _groups(results, pair).items():
        chart, shown = _reliability_chart(results, pair, title, entries)
        if chart.lines:
            groups.append(Group(title, shown, [chart]))
    lacks = "The evaluation of this pair has no reliability bins; they are measured when it is evaluated again."
    return Figure(pair, groups, "" if groups else lacks)


def _curve_figure(results: Results, pair: str) -> Figure:
    history = results.histories.get(pair)
    begun = set() if history is None else set(history["cell"])
    shown = [entry for entry in results.entries_of(pair) if begun & set(results.cells_of(entry))]
    entries = {title: group for title, group in _groups(results, pair).items() if any(e in shown for e in group)}
    if history is None or not entries:
        return Figure(pair, lacks="No cell of this pair has a history yet.")
    drawn = {title: _curves(results, history, group) for title, group in entries.items()}
    axes = _axes(drawn)
    groups = []
    for title, by_quantity in drawn.items():
        styles = dict(zip((entry.row for entry in entries[title]), _row_styles(entries[title]), strict=True))
        keys = [
            Key(entry.row.label + _incomplete(entry), styles[entry.row]) for entry in entries[title] if entry in shown
        ]
        charts = [_curve_chart(pair, title, axes[quantity], lines, styles) for quantity, lines in by_quantity.items()]
        groups.append(Group(title, keys, charts))
    return Figure(pair, groups)


def _groups(results: Results, pair: str) -> dict[str, list[Entry]]:
    """Group a pair's rows by logit method, those without scales together and first, the teacher left out."""
    groups: dict[str, list[Entry]] = {}
    for entry in results.entries_of(pair):
        if entry.row.method is not None:
            title = ALONE if entry.row.scale is None else entry.row.method.upper()
            groups.setdefault(title, []).append(entry)
    return groups


def _row_styles(entries: list[Entry]) -> list[Style]:
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


def _keys(styles: dict[str, Style], shown: set[str]) -> list[Key]:
    return [Key(label, style) for label, style in styles.items() if label in shown]


def _incomplete(entry: Entry) -> str:
    return f" ({len(entry.values)} of {entry.seeds} seeds, no mean)" if entry.missing else ""


def _curves(results: Results, history: pd.DataFrame, entries: list[Entry]) -> dict[str, list[Curve]]:
    """Collect the curves of a group's rows by quantity: accuracies, losses, learning rate."""
    columns = [name for name in history.columns if name not in ("cell", "epoch", TEST, TRAIN, RATE)]
    by_quantity: dict[str, list[Curve]] = {}
    for entry in entries:
        of_row = history[history["cell"].isin(results.cells_of(entry))]
        table = of_row.pivot_table(index="epoch", columns="cell")
        for quantity in (TEST, TRAIN, *columns, RATE):
            if quantity in table:
                seeds = _thinned(pd.DataFrame(table[quantity]).dropna(), is_stepped=quantity == RATE)
                if len(seeds):
                    curve = Curve(entry.row, [int(epoch) for epoch in seeds.index], seeds, not entry.missing)
                    by_quantity.setdefault(quantity, []).append(curve)
    if TEST in by_quantity:
        by_quantity[LATE] = [curve.late for curve in by_quantity[TEST]]
    return {key: by_quantity[key] for key in (TEST, LATE, TRAIN, *columns, RATE) if key in by_quantity}


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
        title = TITLES.get(quantity, f"{quantity.upper()} loss")
        epochs = whole("Epoch", min(c.epochs[0] for c in drawn_lines), max(c.epochs[-1] for c in drawn_lines))
        if quantity == RATE and min(values) > 0:
            axes[quantity] = epochs, powers(title, values)
        else:
            from_zero = quantity not in (TEST, LATE, TRAIN) and min(values) >= 0
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
    drawn: set[str] = set()
    for curve in lines:
        points = list(zip(curve.epochs, curve.seeds.mean(axis=1), strict=True))
        path = chart.path(points)
        if not curve.is_whole:
            for name in curve.seeds:
                chart.line(
                    str(name), styles[curve.row], zip(curve.epochs, curve.seeds[name], strict=True), is_thin=True
                )
        elif path not in drawn:
            low = list(zip(curve.epochs, curve.seeds.min(axis=1), strict=True))
            high = list(zip(curve.epochs, curve.seeds.max(axis=1), strict=True))
            several = low != high
            chart.line(curve.row.label, styles[curve.row], points, low=low if several else (), high=high * several)
            drawn.add(path)
    return chart


def _reliability_chart(results: Results, pair: str, title: str, entries: list[Entry]) -> tuple[Chart, list[Key]]:
    """Draw accuracy over confidence for a group's rows; the chart has no lines where no cell has bins."""
    x = linear("Confidence (%)", [0, 100], ticks=4)
    y = linear("Accuracy (%)", [0, 100], ticks=4)
    chart = Chart(f"Reliability of {pair}, {title}", "", x, y, 300, 290, has_diagonal=True)
    keys = []
    told = []
    grey = Style(dash=2, is_context=True)
    if any("reliability" in cell for entry in entries for cell in results.measured(entry)):
        teacher = next(entry for entry in results.entries_of(pair) if entry.row.method is None)
        keys += [Key(TEACHER, grey)] * _draw_bins(chart, TEACHER, grey, results.measured(teacher))
    for entry, style in zip(entries, _row_styles(entries), strict=True):
        cells = results.measured(entry)
        if _draw_bins(chart, entry.row.label, style, cells):
            keys.append(Key(entry.row.label, style))
            told.append(f"{entry.row.label} {sum(cell['ece'] for cell in cells) / len(cells):.2f}")
    chart.description = (
        "Accuracy over confidence in bins of equal width; below the diagonal, predictions are overconfident. "
        f"Expected calibration error in percent: {'; '.join(told)}."
    )
    return chart, keys


def _draw_bins(chart: Chart, label: str, style: Style, cells: list[dict[str, Any]]) -> bool:
    """Draw a line through the bins of all seeds, marks as large as the bins' share; return whether there was one."""
    measured = [cell for cell in cells if "reliability" in cell]
    if not measured:
        return False
    pooled = dvc_plots.pooled(measured)
    bins = list(zip(pooled["count"], pooled["confidence"], pooled["accuracy"], strict=True))
    total = sum(count for count, _, _ in bins)
    chart.line(label, style, [(100 * confidence, 100 * accuracy) for _, confidence, accuracy in bins])
    for count, confidence, accuracy in bins:
        text = f"{label}: confidence {confidence:.1%}, accuracy {accuracy:.1%}, {count / total:.1%} of predictions"
        size = 1.2 + 3.3 * math.sqrt(count / total)
        chart.mark(text, style, 100 * confidence, 100 * accuracy, radius=size)
    return True
