"""The figures of diagnostics for a paper: logits, agreement, classes, layers, regions, features, cost."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdcore.results import drawing, pareto
from kdcore.results.diagnostics.summary import Diagnosed, diagnosed
from kdcore.results.drawing import COLOURS, COLUMN, MOST_TICKS, STYLE, TEACHER, TEXT, Look
from kdcore.results.entry import Entry
from kdcore.results.row import Row, by_size
from kdcore.results.rows import Results

SIDE = 1.5
"""Height in inches of a panel that is a square."""


def all_figures(results: Results) -> dict[str, Figure]:
    """Draw all figures for which there are diagnostics or times: name -> figure."""
    drawn = {name: draw(results) for name, draw in OF_PAIRS.items()}
    for pair in results.diagnoses:
        found = diagnosed(results, pair)
        drawn |= {f"{name}-{pair}": draw(found) for name, draw in OF_ROWS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


@mpl.rc_context(STYLE)
def accuracy_over_time(results: Results) -> Figure | None:
    """Draw accuracy over the time of a training step: a panel per pair and device, a point per row, hollow with stand,
    larger the finer its regions. A line joins the rows that no other row beats in both; § marks another budget.
    """
    groups = pareto.timed(results)
    if not groups:
        return None
    titles = {key: f"{key[0]}\n{key[1]}" for key in groups}
    figure, panels, spare = drawing.panels(titles, "Top-1 accuracy (%)", COLUMN if len(titles) == 1 else TEXT)
    looks, scales = drawing.looks(results), sorted(results.card["scales"], key=by_size)
    for key, axes in panels.items():
        best = pareto.front(groups[key])
        axes.plot(*zip(*map(_place, best), strict=True), color="0.6", linewidth=0.8, zorder=0)
        for cost in groups[key]:
            row = cost.entry.row
            size = 3.5 if row.scale is None else 3 + 1.5 * scales.index(row.scale)
            style = looks[str(row.method)].point(bool(row.stand))
            label = looks[str(row.method)].label
            x, y = _place(cost)
            axes.errorbar(x, y, cost.entry.deviation, label=label, elinewidth=0.6, markersize=size, **style)
            drawing.mark_budgets(axes, [x], [cost.entry], looks[str(row.method)].colour)
    figure.supxlabel("Time per training step (ms)")
    drawing.legend(figure, drawing.handles(panels.values()), spare)
    return figure


def _place(cost: pareto.Cost) -> tuple[float, float]:
    """Return a row's time and accuracy; `pareto.timed` has only rows with both."""
    return cost.milliseconds or 0.0, cost.entry.mean or 0.0


@mpl.rc_context(STYLE)
def agreement(results: Results) -> Figure | None:
    """Draw the agreement with the teacher over its confidence: a panel per pair and variant, a line per row."""
    return _lines(results, _agreement, "Agreement (%)", "Confidence of the teacher (%)")


@mpl.rc_context(STYLE)
def class_gains(results: Results) -> Figure | None:
    """Draw the gains of classes over the student trained alone, sorted: a panel per pair and variant, a line per row.

    None where no pair has such a student.
    """
    return _lines(results, _class_gains, "Gain of a class (points)", "Classes, from the smallest gain (%)")


@mpl.rc_context(STYLE)
def regions(results: Results) -> Figure | None:
    """Draw the share of right regions over the level: a panel per pair and variant, a line per row with regions, grey
    for the teacher. None where no row has regions.
    """
    return _lines(results, _regions, "Right regions (%)", "Level", has_teacher=True)


Points = tuple[Sequence[float], Sequence[float]]


def _agreement(one: Diagnosed) -> Points:
    return [100 * at for at, _, _ in one.agreement], [100 * share for _, share, _ in one.agreement]


def _class_gains(one: Diagnosed) -> Points:
    gains = one.class_gains
    return list(np.linspace(0, 100, len(gains))), gains


def _regions(one: Diagnosed) -> Points:
    return list(one.region_accuracies), list(one.region_accuracies.values())


def _lines(
    results: Results, points: Callable[[Diagnosed], Points], y: str, x: str, *, has_teacher: bool = False
) -> Figure | None:
    """Draw a line per row that has points, and with `has_teacher` the teacher's, which gives the ticks, in a panel per
    pair and variant.
    """
    by_place = {one.entry.place: one for pair in results.diagnoses for one in diagnosed(results, pair)}
    shown = [one.entry for one in by_place.values() if not one.is_teacher and points(one)[0]]
    if not shown:
        return None
    groups = drawing.of_variants(shown, results.card)
    titles = drawing.panel_titles(groups)
    figure, panels, spare = drawing.panels(titles, y, COLUMN if len(titles) == 1 else TEXT)
    looks, scales = drawing.looks(results), sorted(results.card["scales"], key=by_size)
    for key, axes in panels.items():
        for entry in groups[key]:
            look = looks[str(entry.row.method)].line_over_epochs(entry.row, scales)
            axes.plot(*points(by_place[entry.place]), label=entry.row.base.label, linewidth=0.8, **look)
        if has_teacher:
            teacher = next(one for one in by_place.values() if one.is_teacher and one.entry.pair == key[0])
            axes.plot(*points(teacher), label=teacher.entry.row.label, color="0.5", linestyle=":", zorder=0)
            axes.set_xticks(points(teacher)[0])
    figure.supxlabel(x)
    drawing.legend(figure, drawing.handles(panels.values()), spare)
    return figure


def _square_panels(entries: Sequence[Entry]) -> tuple[Figure, dict[Row, Axes]]:
    """Make a square panel per row, four beside each other, titled by the row."""
    columns = min(4, len(entries))
    lines = -(-len(entries) // columns)
    figure = Figure(figsize=(TEXT * columns / 4, 0.2 + lines * (SIDE + 0.25)))
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in places[len(entries) :]:
        axes.axis("off")
    return figure, {entry.row: axes for entry, axes in zip(entries, places, strict=False)}


@mpl.rc_context(STYLE)
def features(found: Sequence[Diagnosed]) -> Figure | None:
    """Draw where t-SNE places the images of some classes: a panel for the teacher and for the first seed of every row.

    None where there are no pictures.
    """
    shown = [one for one in found if one.first is not None]
    if not shown:
        return None
    figure, panels = _square_panels([one.entry for one in shown])
    of = shown[0].diagnosis["picture"]
    labels = np.array(of["labels"])
    numbers = list(dict.fromkeys(of["labels"]))
    for one in shown:
        axes, points = panels[one.entry.row], np.array(one.first["picture"] if one.first else [])
        for number, colour in zip(numbers, COLOURS, strict=False):
            x, y = points[labels == number].T
            axes.scatter(x, y, s=3, color=colour, linewidths=0)
        axes.set(xticks=[], yticks=[], title=one.entry.row.label)
        axes.spines[:].set_visible(True)
    marks = [Line2D([], [], color=colour, marker="o", linestyle="") for colour in COLOURS]
    drawing.legend(figure, dict(zip(of["classes"], marks, strict=False)), [])
    return figure


@mpl.rc_context(STYLE)
def layers(found: Sequence[Diagnosed]) -> Figure | None:
    """Draw CKA of each layer of the student with each of the teacher, mean over seeds: a panel per row, the stages from
    shallow to deep and the pooled vector last. None where nothing is known of layers.
    """
    values = {one.entry.row: one.cka for one in found if not one.is_teacher and one.cka.ndim == 2}
    return _heats(found, values, ends=(0, 1), label="CKA", axis_labels=("Layer of the teacher", "Layer of the student"))


@mpl.rc_context(STYLE)
def correlations(found: Sequence[Diagnosed]) -> Figure | None:
    """Draw how far the correlations of logits are from the teacher's, mean over seeds: a panel per row, classes x
    classes, neighbouring classes averaged.
    """
    values = {
        one.entry.row: np.mean([cell["correlation_blocks"] for cell in one.cells], axis=0)
        for one in found
        if not one.is_teacher
    }
    most = max((float(value.max()) for value in values.values()), default=1.0)
    return _heats(found, values, ends=(0, most), label="Difference of correlations", axis_labels=("Classes", "Classes"))


def _heats(
    found: Sequence[Diagnosed],
    values: dict[Row, np.ndarray],
    *,
    ends: tuple[float, float],
    label: str,
    axis_labels: tuple[str, str],
) -> Figure | None:
    """Draw matrices as heat maps with one scale of colours, a panel per row; None where there are none."""
    shown = [one for one in found if one.entry.row in values]
    if not shown:
        return None
    figure, panels = _square_panels([one.entry for one in shown])
    for one in shown:
        axes, square = panels[one.entry.row], values[one.entry.row]
        edges = (np.arange(size + 1) + 0.5 for size in square.shape[::-1])
        mesh = axes.pcolormesh(*edges, square, vmin=ends[0], vmax=ends[1], cmap="viridis", rasterized=True)
        mesh.set_edgecolor("face")
        ticks = range(1, max(square.shape) + 1) if max(square.shape) <= MOST_TICKS else []
        axes.set(title=one.entry.row.label, xticks=ticks[: square.shape[1]], yticks=ticks[: square.shape[0]])
        axes.grid(visible=False)
        axes.invert_yaxis()
    bar = figure.colorbar(mesh, ax=list(panels.values()), label=label, pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    figure.supxlabel(axis_labels[0])
    figure.supylabel(axis_labels[1], size=7)
    return figure


@mpl.rc_context(STYLE)
def logits(results: Results) -> Figure | None:
    """Draw deviation over mean of each image's logits, of the first seed: a panel per pair, the teacher black, and of
    every method the plain rows and those with stand, which are hollow.
    """
    shown = {pair: diagnosed(results, pair) for pair in results.diagnoses}
    if not shown:
        return None
    figure, panels, spare = drawing.panels(
        {pair: pair for pair in shown}, "Deviation of an image's logits", COLUMN if len(shown) == 1 else TEXT
    )
    looks = drawing.looks(results)
    for pair, axes in panels.items():
        for one in shown[pair]:
            row = one.entry.row
            if row.scale is None or row.levels == [1]:
                look: Look = TEACHER if one.is_teacher else looks[str(row.method)]
                style = {"markerfacecolor": "none"} if row.stand else {"markeredgewidth": 0.0}
                label = look.label + (" + stand" if row.stand else "")
                options: dict[str, Any] = {
                    "color": look.colour,
                    "marker": look.marker,
                    "markersize": 2,
                    "linestyle": "",
                    **style,
                }
                axes.plot(*one.cells[0]["logits"], label=label, alpha=0.6, **options)
    figure.supxlabel("Mean of an image's logits")
    drawing.legend(figure, drawing.handles(panels.values()), spare)
    return figure


OF_PAIRS: dict[str, Callable[[Results], Figure | None]] = {
    "accuracy-over-time": accuracy_over_time,
    "agreement-by-confidence": agreement,
    "class-gains": class_gains,
    "logits": logits,
    "regions": regions,
}
"""Figures with a panel per pair."""
OF_ROWS: dict[str, Callable[[Sequence[Diagnosed]], Figure | None]] = {
    "cka": layers,
    "correlations": correlations,
    "features": features,
}
"""Figures of one pair, with a panel per row; the pair's name follows theirs."""
