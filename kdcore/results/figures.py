"""The figures of a paper, drawn from the results of a matrix: vector PDF for LaTeX, PNG to look at.

The same results give the same bytes with the same version of matplotlib, because git tracks tables/.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdcore import catalog
from kdcore.matrix.cell import BASE
from kdcore.results import diagnostic_figures, drawing, dvc_plots, heat
from kdcore.results.ablation import Ablation, ablations
from kdcore.results.drawing import ACCURACY, ALONE, COLUMN, STYLE, TEACHER, TEXT
from kdcore.results.entry import Entry
from kdcore.results.row import Row, by_size, rows
from kdcore.results.rows import Results


def write(results: Results, folder: Path) -> None:
    """Write every figure for which the matrix has results into folder/figures."""
    (folder / "figures").mkdir()
    drawn = {name: draw(results) for name, draw in FIGURES.items()}
    drawn |= {f"ablation-{found.key}": ablation(results, found) for found in ablations(results)}
    drawn |= diagnostic_figures.all_figures(results)
    for name, figure in drawn.items():
        if figure is not None:
            drawing.save(figure, folder / "figures", name)


@mpl.rc_context(STYLE)
def over_scales(results: Results) -> Figure | None:
    """Draw accuracy over M: per pair and variant a line per method, dashed with stand; bars are deviations over seeds.

    None for a matrix with one scale. Where a seed is missing, the line has a gap. § marks another budget. The panels of
    a pair have one axis of accuracies.
    """
    scales = sorted(results.card["scales"], key=by_size)
    shown = [entry for entry in results.entries if entry.row.scale is not None and entry.declared]
    if len(scales) < 2 or not any(entry.values for entry in shown):
        return None
    groups = {key: some for key, some in drawing.of_variants(shown, results.card).items() if _has_lines(key, some)}
    titles = drawing.panel_titles(groups)
    width = COLUMN if len(titles) < 3 else TEXT
    figure, panels, spare = drawing.panels(titles, ACCURACY[results.card["accuracy"]], width)
    for key, axes in panels.items():
        _lines_over_scales(axes, groups[key], scales, results)
    drawn = {key: axes for key, axes in panels.items() if any(entry.mean is not None for entry in groups[key])}
    for (pair, _), axes in drawn.items():
        lows, highs = zip(*(other.get_ylim() for key, other in drawn.items() if key[0] == pair), strict=True)
        axes.set_ylim(min(lows), max(highs))
    figure.supxlabel("M")
    drawing.legend(figure, drawing.handles(panels.values()), spare)
    return figure


def _has_lines(key: tuple[str, str], entries: list[Entry]) -> bool:
    """Whether there is something to draw over M: not where a variant is for one scale alone."""
    return key[1] == BASE or len({entry.row.scale for entry in entries}) > 1


def _lines_over_scales(axes: Axes, entries: list[Entry], scales: list[int | str], results: Results) -> None:
    lines = [(method, stand) for method in results.card["methods"] for stand in sorted(results.card["stand"])]
    looks = drawing.looks(results)
    for i, (method, stand) in enumerate(lines):
        of_line = [entry for entry in entries if (entry.row.method, entry.row.stand) == (method, stand)]
        if of_line:
            places = [scales.index(entry.row.scale) for entry in of_line if entry.row.scale is not None]
            x = np.array(places) + 0.06 * (i - (len(lines) - 1) / 2)
            mean = [np.nan if entry.mean is None else entry.mean for entry in of_line]
            deviation = None if len(results.card["seeds"]) < 2 else [entry.deviation or 0 for entry in of_line]
            label = looks[method].label + (" + stand" if stand else "")
            style = looks[method].line_over_scales(stand)
            axes.errorbar(x, mean, deviation, label=label, elinewidth=0.6, **style)
            drawing.mark_budgets(axes, x, of_line, looks[method].colour)
    names = {entry.row.scale: entry.row.m for entry in results.entries if entry.row.scale is not None}
    axes.set_xticks(range(len(scales)), [names[scale] for scale in scales])
    axes.set_xlim(-0.35, len(scales) - 0.65)


@mpl.rc_context(STYLE)
def curves(results: Results) -> Figure | None:
    """Draw test accuracy over epochs, mean over seeds: a line per row, the paler the smaller M, dashed with stand.

    There is a panel per pair and variant. Its frame is as long as its longest row, and as high as the values in the
    last two thirds of that. Rows outside the frame are not in the legend; rows with a missing seed are not drawn.
    """
    lines = dict(list(dvc_plots.curves(results).groupby(["pair", "row"])))
    drawn = [entry for entry in results.entries if not entry.lacks and (entry.pair, entry.row.label) in lines]
    if not drawn:
        return None
    groups = drawing.of_variants(drawn, results.card)
    titles = drawing.panel_titles(groups)
    figure, panels, spare = drawing.panels(titles, "Test accuracy (%)", COLUMN if len(titles) == 1 else TEXT)
    scales = sorted(results.card["scales"], key=by_size)
    looks = drawing.looks(results)
    for key, axes in panels.items():
        for entry in groups[key]:
            line = lines[entry.pair, entry.row.label]
            look = looks[str(entry.row.method)].line_over_epochs(entry.row, scales)
            axes.plot(line["epoch"], line["test_top1"], label=entry.row.base.label, linewidth=0.8, **look)
        _frame(axes)
    figure.supxlabel("Epoch")
    handles = drawing.handles(panels.values())
    names = dict.fromkeys(row.base.label for row in rows(results.card))
    drawing.legend(figure, {name: handles[name] for name in names if name in handles}, spare)
    return figure


def _frame(axes: Axes) -> None:
    """Frame the last two thirds of the longest line, and take lines outside the frame out of the legend."""
    points = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
    last = max(float(xy[:, 0].max()) for xy in points)
    low, high = drawing.limits([float(value) for xy in points for value in xy[xy[:, 0] > last / 3, 1]])
    axes.set(xlim=(0, last), ylim=(low, high))
    for line, xy in zip(axes.lines, points, strict=True):
        if not ((low <= xy[:, 1]) & (xy[:, 1] <= high)).any():
            line.set_label(f"_{line.get_label()}")  # matplotlib's way to keep a line out of legends


@mpl.rc_context(STYLE)
def ablation(results: Results, found: Ablation) -> Figure:
    """Draw accuracy over a number that variants vary: a panel per pair, a line per row and other values.

    Bars are deviations over seeds; dashed with stand. Where a seed is missing, the line has a gap. The student trained
    alone is a grey line. Colours tell methods and other values apart, marks scales. § marks another budget.
    """
    pairs = list(dict.fromkeys(line.pair for line in found.lines))
    width = COLUMN if len(pairs) == 1 else TEXT
    figure, panels, spare = drawing.panels({pair: pair for pair in pairs}, ACCURACY[results.card["accuracy"]], width)
    colours = list(dict.fromkeys((line.row.method, line.change) for line in found.lines))
    scales = sorted({line.row.scale for line in found.lines if line.row.scale is not None}, key=by_size)
    for line in found.lines:
        mark = 0 if line.row.scale is None else 1 + scales.index(line.row.scale)
        look = drawing.look(line.label, colours.index((line.row.method, line.change)), mark)
        axes = panels[line.pair]
        entries = list(line.entries.values())
        mean = [np.nan if entry.mean is None else entry.mean for entry in entries]
        deviation = None if len(results.card["seeds"]) < 2 else [entry.deviation or 0 for entry in entries]
        style = look.line_over_scales(bool(line.row.stand))
        axes.errorbar(list(line.entries), mean, deviation, label=line.label, elinewidth=0.6, **style)
        drawing.mark_budgets(axes, line.entries, entries, look.colour)
    for pair, axes in panels.items():
        student = next((e for e in results.entries_of(pair) if e.row == Row(catalog.VANILLA)), None)
        is_line = any(line.row.method == catalog.VANILLA for line in found.lines)
        if student is not None and student.mean is not None and not is_line:
            axes.axhline(student.mean, color=ALONE, linestyle=":", linewidth=0.8, label=student.row.label)
        drawing.number_axis(axes, found.ticks)
    figure.supxlabel(found.key)
    drawing.legend(figure, drawing.handles(panels.values()), spare)
    return figure


@mpl.rc_context(STYLE)
def published(results: Results) -> Figure | None:
    """Draw measured over published accuracy, a point per entry that has both; bars are deviations over seeds.

    Points are hollow where the published figure is doubtful. None where no entry has both.
    """
    points = results.beside_published
    if not points:
        return None
    figure = Figure(figsize=(COLUMN, COLUMN))
    axes = figure.subplots()
    looks = drawing.looks(results)
    for entry, other, mean in points:
        look = looks[entry.row.method] if entry.row.method else TEACHER
        axes.errorbar(
            other.top1, mean, entry.deviation, label=look.label, elinewidth=0.6, **look.point(bool(other.doubt))
        )
    limits = drawing.limits([value for _, other, mean in points for value in (other.top1, mean)])
    axes.plot(limits, limits, color="0.6", linewidth=0.6, zorder=0)
    # Not aspect="equal": the layout would clip its axes below a high legend. The figure's size makes the axes square.
    axes.set(xlim=limits, ylim=limits)
    measured = ACCURACY[results.card["accuracy"]]
    axes.set(xlabel="Published top-1 accuracy (%)", ylabel=f"Measured {measured[0].lower()}{measured[1:]}")
    difference = float(np.mean([mean - other.top1 for _, other, mean in points]))
    text = f"n = {len(points)}, mean difference {drawing.signed(difference)}"
    axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", size=6)
    handles = drawing.handles([axes])
    if any(other.doubt for _, other, _ in points):
        handles["doubtful figure"] = Line2D([], [], color="0.5", marker="o", mfc="white", linestyle="")
    drawing.legend(figure, handles, [])
    return figure


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "accuracy-over-scales": over_scales,
    "gains": heat.over_plain,
    "gains-over-student": heat.over_student,
    "curves": curves,
    "published": published,
}
