"""The report's figures: which charts there are, and what each of them shows."""

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kdcore.results import dvc_plots
from kdcore.results.report.svg import COLOURS, Axis, Chart, Style, linear, powers, whole
from kdcore.results.rows import Entry, Results, Row, by_size

POINTS = 60
"""Epochs that a line shows; of longer runs, evenly spaced ones, the first and the last among them."""
TEST, TRAIN, RATE = "test_top1", "train_top1", "lr"
"""Columns of a history; all others but its cell and epoch are losses."""
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
"""The group of the rows that have none: students alone and feature methods."""
TEACHER = "Teacher"


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    style: Style
    is_hollow: bool = False
    """Of a mark: its outline alone."""


@dataclass
class Group:
    """Charts that share a legend: of one method of one pair, or of all its rows without scales."""

    title: str
    keys: list[Key]
    charts: list[Chart] = field(default_factory=list)


@dataclass
class Figure:
    """What stands under one heading: groups of charts, or why there are none."""

    title: str
    groups: list[Group] = field(default_factory=list)
    lacks: str = ""


@dataclass(frozen=True)
class Curve:
    """One quantity of one row over its epochs, the epochs that all its seeds have and that are drawn."""

    row: Row
    epochs: list[int]
    seeds: pd.DataFrame
    """(epochs, seeds)."""
    is_whole: bool
    """Whether every seed is there: only then is there a mean."""

    @property
    def late(self) -> "Curve":
        """Its last third, where rows part."""
        first = self.epochs[-1] - (self.epochs[-1] - self.epochs[0]) // 3
        kept = [epoch for epoch in self.epochs if epoch >= first]
        return Curve(self.row, kept, self.seeds.loc[kept], self.is_whole)


def published(results: Results) -> Group | None:
    """Measured over published accuracies with the diagonal; None where nothing was published of what was measured."""
    shown = [entry for entry in results.entries if entry.figure is not None and entry.mean is not None]
    if not shown:
        return None
    styles = _of_pairs(results)
    found = [(entry, entry.figure.top1, entry.mean) for entry in shown if entry.figure and entry.mean is not None]
    ends = [value + sign * (entry.deviation or 0) for entry, x, y in found for value in (x, y) for sign in (-1, 1)]
    title, axis = "Measured over published top-1 accuracy", linear("Published (%)", ends, ticks=6)
    above = sum(y > x for _, x, y in found)
    text = (
        f"Scatter plot of {len(found)} rows; {above} lie above the diagonal, where more was measured than published. "
        "Bars: sample standard deviation over seeds. The table of all rows has every value."
    )
    doubts = [entry.figure.doubt for entry in shown if entry.figure and entry.figure.doubt]
    text += f" Hollow: the published figures of {len(doubts)} rows are doubtful." if doubts else ""
    measured = linear(MEASURED[results.card["accuracy"]], ends, ticks=6)
    chart = Chart(title, text, axis, measured, 440, 420, has_diagonal=True)
    for entry, x, y in found:
        doubt = entry.figure.doubt if entry.figure else None
        label = _compared(entry, x, y) + (f"; doubtful: {doubt}" if doubt else "")
        chart.mark(label, styles[entry.pair], x, y, deviation=entry.deviation, is_hollow=bool(doubt))
    keys = _keys(styles, {entry.pair for entry in shown})
    if doubts:
        keys.append(Key("Doubtful figure", Style(is_context=True), is_hollow=True))
    return Group(title, keys, [chart])


def _compared(entry: Entry, published_top1: float, mean: float) -> str:
    noise = "" if entry.deviation is None else f" ± {entry.deviation:.2f}"
    return f"{entry.pair}, {entry.row.label}: measured {mean:.2f}{noise}, published {published_top1:.2f}"


def agreement(results: Results) -> Group | None:
    """Accuracy over agreement with the teacher, a mark per cell; None where no cell has a result."""
    styles = _of_pairs(results)
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
    """Training curves: a figure per pair, a group per method, a chart per quantity; scales equal across groups."""
    return [_curves_of(results, pair) for pair in results.card["pairs"]]


def reliability(results: Results) -> list[Figure]:
    """Reliability diagrams: a figure per pair, a chart per method, seeds pooled, the teacher for comparison."""
    by_pair = {evaluation["pair"]: evaluation for evaluation in results.evaluations}
    found = []
    for pair in results.card["pairs"]:
        evaluation = by_pair.get(pair)
        if evaluation is None:
            found.append(Figure(pair, lacks="This pair has not been evaluated yet."))
            continue
        groups = []
        for title, entries in _groups(results, pair).items():
            chart, shown = _reliability_chart(pair, title, evaluation, entries)
            if chart.lines:
                groups.append(Group(title, shown, [chart]))
        lacks = (
            ""
            if groups
            else "The evaluation of this pair has no reliability bins; they are measured when it is evaluated again."
        )
        found.append(Figure(pair, groups, lacks))
    return found


def _curves_of(results: Results, pair: str) -> Figure:
    history = results.histories.get(pair)
    begun = set() if history is None else set(history["cell"])
    shown = [entry for entry in results.of_pair(pair) if begun & set(results.cells_of(entry))]
    entries = {title: group for title, group in _groups(results, pair).items() if any(e in shown for e in group)}
    if history is None or not entries:
        return Figure(pair, lacks="No cell of this pair has a history yet.")
    drawn = {title: _curves(results, history, group) for title, group in entries.items()}
    axes = _axes(drawn)
    groups = []
    for title, of_quantity in drawn.items():
        styles = dict(zip((entry.row for entry in entries[title]), _of_rows(entries[title]), strict=True))
        keys = [
            Key(entry.row.label + _incomplete(entry), styles[entry.row]) for entry in entries[title] if entry in shown
        ]
        charts = [_curve_chart(pair, title, axes[quantity], lines, styles) for quantity, lines in of_quantity.items()]
        groups.append(Group(title, keys, charts))
    return Figure(pair, groups)


def _groups(results: Results, pair: str) -> dict[str, list[Entry]]:
    """A pair's rows by logit method, those without scales together and first; the teacher is in none."""
    found: dict[str, list[Entry]] = {}
    for entry in results.of_pair(pair):
        if entry.row.method is not None:
            title = ALONE if entry.row.scale is None else entry.row.method.upper()
            found.setdefault(title, []).append(entry)
    return found


def _of_rows(entries: list[Entry]) -> list[Style]:
    """How a group's rows are told apart: scales by colour and stand by dashes; rows without scales one by one."""
    scales = sorted({entry.row.scale for entry in entries if entry.row.scale is not None}, key=by_size)
    return [
        Style(i, i // COLOURS, i)
        if entry.row.scale is None
        else Style(scales.index(entry.row.scale), int(bool(entry.row.stand)), scales.index(entry.row.scale))
        for i, entry in enumerate(entries)
    ]


def _of_pairs(results: Results) -> dict[str, Style]:
    return {pair: Style(i, 0, i) for i, pair in enumerate(results.card["pairs"])}


def _keys(styles: dict[str, Style], shown: set[str]) -> list[Key]:
    return [Key(label, style) for label, style in styles.items() if label in shown]


def _incomplete(entry: Entry) -> str:
    seeds = len(entry.values) + len(entry.missing)
    return f" ({len(entry.values)} of {seeds} seeds, no mean)" if entry.missing else ""


def _curves(results: Results, history: pd.DataFrame, entries: list[Entry]) -> dict[str, list[Curve]]:
    """By quantity: accuracies, losses, learning rate."""
    columns = [name for name in history.columns if name not in ("cell", "epoch", TEST, TRAIN, RATE)]
    found: dict[str, list[Curve]] = {}
    for entry in entries:
        of_row = history[history["cell"].isin(results.cells_of(entry))]
        table = of_row.pivot_table(index="epoch", columns="cell")
        for quantity in (TEST, TRAIN, *columns, RATE):
            if quantity in table:
                seeds = _thinned(pd.DataFrame(table[quantity]).dropna(), is_stepped=quantity == RATE)
                if len(seeds):
                    curve = Curve(entry.row, [int(epoch) for epoch in seeds.index], seeds, not entry.missing)
                    found.setdefault(quantity, []).append(curve)
    if TEST in found:
        found[LATE] = [curve.late for curve in found[TEST]]
    order = [quantity for quantity in (TEST, LATE, TRAIN, *columns, RATE) if quantity in found]
    return {quantity: found[quantity] for quantity in order}


def _thinned(seeds: pd.DataFrame, *, is_stepped: bool) -> pd.DataFrame:
    """At most about POINTS epochs: of a quantity that mostly stays, the ends of its steps, else evenly spaced ones."""
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
    """The two axes of every quantity, over all groups of a pair."""
    lines: dict[str, list[Curve]] = {}
    for of_quantity in drawn.values():
        for quantity, found in of_quantity.items():
            lines.setdefault(quantity, []).extend(found)
    axes = {}
    for quantity, found in lines.items():
        values = [float(value) for curve in found for value in curve.seeds.to_numpy().ravel()]
        title = TITLES.get(quantity, f"{quantity.upper()} loss")
        epochs = whole("Epoch", min(c.epochs[0] for c in found), max(c.epochs[-1] for c in found))
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


def _reliability_chart(
    pair: str, title: str, evaluation: dict[str, Any], entries: list[Entry]
) -> tuple[Chart, list[Key]]:
    """Accuracy over confidence of a group's rows; without lines where no cell has bins."""
    x = linear("Confidence (%)", [0, 100], ticks=4)
    y = linear("Accuracy (%)", [0, 100], ticks=4)
    chart = Chart(f"Reliability of {pair}, {title}", "", x, y, 300, 290, has_diagonal=True)
    keys = []
    told = []
    grey = Style(dash=2, is_context=True)
    if any("reliability" in cell for entry in entries for cell in evaluation["cells"] if entry.row.holds(cell)):
        keys += [Key(TEACHER, grey)] * _draw_bins(chart, TEACHER, grey, [evaluation["teacher"]])
    for entry, style in zip(entries, _of_rows(entries), strict=True):
        cells = [cell for cell in evaluation["cells"] if entry.row.holds(cell)]
        if _draw_bins(chart, entry.row.label, style, cells):
            keys.append(Key(entry.row.label, style))
            told.append(f"{entry.row.label} {sum(cell['ece'] for cell in cells) / len(cells):.2f}")
    chart.description = (
        "Accuracy over confidence in bins of equal width; below the diagonal, predictions are overconfident. "
        f"Expected calibration error in percent: {'; '.join(told)}."
    )
    return chart, keys


def _draw_bins(chart: Chart, label: str, style: Style, cells: list[dict[str, Any]]) -> bool:
    """A line through the bins of all seeds together, marks as large as the bins' share; whether there was any."""
    measured = [cell for cell in cells if "reliability" in cell]
    if not measured:
        return False
    found = dvc_plots.pooled(measured)
    bins = list(zip(found["count"], found["confidence"], found["accuracy"], strict=True))
    total = sum(count for count, _, _ in bins)
    chart.line(label, style, [(100 * confidence, 100 * accuracy) for _, confidence, accuracy in bins])
    for count, confidence, accuracy in bins:
        text = f"{label}: confidence {confidence:.1%}, accuracy {accuracy:.1%}, {count / total:.1%} of predictions"
        size = 1.2 + 3.3 * math.sqrt(count / total)
        chart.mark(text, style, 100 * confidence, 100 * accuracy, radius=size)
    return True
