"""The figures of a paper, drawn from the results of a matrix: vector PDF for LaTeX, PNG to look at.

The same results give the same bytes with the same version of matplotlib, because git tracks tables/.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from kdcore import catalog
from kdcore.results import dvc_plots
from kdcore.results.rows import Entry, Results, Row, by_size, rows

COLUMN, TEXT = 3.3, 6.9
"""Widths of one column and of the text, in inches."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.titlepad": 3,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "legend.columnspacing": 1.2,
    "figure.labelsize": 7,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "lines.linewidth": 1,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.6,
    "errorbar.capsize": 1.5,
    "hatch.linewidth": 0.4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}
DPI = 300
PNG_COLOURS = 256
"""How many colours a PNG has: it takes a third of the space of one with all colours, and looks the same."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#999933", "#882255", "#44AA99")
"""Colours for colour-blind readers: Okabe and Ito (2008) without black and yellow, then Tol's muted scheme (2021)."""
MARKERS = "os^DvPX*<>"
ALONE = "0.35"
"""Grey of the student trained alone."""
BUDGET = "§"
"""Marks what was not trained with the budget that the caption names; the tables have the same sign."""
DIVERGING = mpl.colormaps["RdBu"]
ACCURACY = {"top1": "Top-1 accuracy (%)", "top1_best": "Top-1 accuracy of the best epoch (%)"}


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure."""

    label: str
    colour: str
    marker: str

    def line_over_scales(self, stand: bool) -> dict[str, Any]:
        """Style of a line over M: dashed and hollow with stand."""
        face = "white" if stand else self.colour
        return {"color": self.colour, "marker": self.marker, "linestyle": "--" if stand else "-", "mfc": face}

    def point(self, hollow: bool) -> dict[str, Any]:
        """Style of a single point."""
        return {"color": self.colour, "fmt": self.marker, "mfc": "white" if hollow else self.colour}

    def line_over_epochs(self, row: Row, scales: Sequence[int | str]) -> dict[str, Any]:
        """Style of a line over epochs: the paler the smaller M, dashed with stand, dotted without M."""
        if row.scale is None:
            return {"color": self.colour, "linestyle": ":"}
        pale = 0.65 * (1 - (scales.index(row.scale) + 1) / len(scales))
        colour = tuple(part + pale * (1 - part) for part in to_rgb(self.colour))
        return {"color": colour, "linestyle": (0, (3, 1)) if row.stand else "-"}


TEACHER = Look("Teacher", "black", "d")


def write(results: Results, folder: Path) -> None:
    """Write every figure for which the matrix has results into folder/figures."""
    (folder / "figures").mkdir()
    for name, draw in FIGURES.items():
        figure = draw(results)
        if figure is not None:
            _save(figure, folder / "figures" / name)


@mpl.rc_context(STYLE)
def over_scales(results: Results) -> Figure | None:
    """Draw accuracy over M: per pair a line per method, dashed with stand; bars are deviations over seeds.

    None for a matrix with one scale. Where a seed is missing, the line has a gap. § marks another budget.
    """
    scales = sorted(results.card["scales"], key=by_size)
    if len(scales) < 2 or not any(entry.row.scale is not None and entry.values for entry in results.entries):
        return None
    pairs = results.card["pairs"]
    figure, panels, spare = _panels(pairs, ACCURACY[results.card["accuracy"]], COLUMN if len(pairs) < 3 else TEXT)
    lines = [(method, stand) for method in results.card["methods"] for stand in sorted(results.card["stand"])]
    looks = _looks(results)
    for pair, axes in panels.items():
        for i, (method, stand) in enumerate(lines):
            entries = [e for e in results.entries_of(pair) if (e.row.method, e.row.stand) == (method, stand)]
            x = np.arange(len(scales)) + 0.06 * (i - (len(lines) - 1) / 2)
            mean = [np.nan if entry.mean is None else entry.mean for entry in entries]
            deviation = None if len(results.card["seeds"]) < 2 else [entry.deviation or 0 for entry in entries]
            label = looks[method].label + (" + stand" if stand else "")
            axes.errorbar(x, mean, deviation, label=label, elinewidth=0.6, **looks[method].line_over_scales(stand))
            _mark_budgets(axes, x, entries, looks[method].colour)
        axes.set_xticks(range(len(scales)), [entry.row.m for entry in entries])
        axes.set_xlim(-0.35, len(scales) - 0.65)
    figure.supxlabel("M")
    _legend(figure, _handles(panels.values()), spare)
    return figure


def _mark_budgets(axes: Axes, x: Iterable[float], entries: list[Entry], colour: str) -> None:
    """Write § beside the points that were trained with another budget; a label would mark them in every panel."""
    for at, entry in zip(x, entries, strict=True):
        if entry.budget and entry.mean is not None:
            axes.annotate(BUDGET, (at, entry.mean), xytext=(2, 2), textcoords="offset points", size=5, color=colour)


@mpl.rc_context(STYLE)
def gains(results: Results) -> Figure | None:
    """Draw gains over plain in percentage points: pairs x rows, a panel per method; bold where seeds support them.

    None where no row has a gain. A field without a gain says what is missing. § marks another budget.
    """
    shown = [entry for entry in results.entries if entry.row.scale is not None and not entry.row.is_plain]
    values = [entry.gain for entry in shown if entry.gain is not None]
    if not values:
        return None
    pairs, methods = results.card["pairs"], results.card["methods"]
    kinds = len({(entry.row.scale, entry.row.stand) for entry in shown})
    columns = min(len(methods), max(1, 10 // kinds))
    lines = ceil(len(methods) / columns)
    size = min(TEXT, 1.9 + 0.5 * kinds * columns), max(1.2, lines * (0.55 + 0.19 * len(pairs)))
    figure = Figure(figsize=size)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    norm = CenteredNorm(0, halfrange=1.2 * max(0.01, *map(abs, values)))
    for method, axes in zip(methods, grid.flat, strict=False):
        mesh = _heat(axes, [entry for entry in shown if entry.row.method == method], pairs, norm)
        axes.set_title(method.upper())
    for axes in grid.flat[len(methods) :]:
        axes.remove()
    bar = figure.colorbar(mesh, ax=grid, label="Gain (points)", pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    return figure


@mpl.rc_context(STYLE)
def curves(results: Results) -> Figure | None:
    """Draw test accuracy over epochs, mean over seeds: a line per row, the paler the smaller M, dashed with stand.

    A pair's frame is as long as its longest row, and as high as the values in the last two thirds of that. Rows
    outside the frame are not in the legend; rows with a missing seed are not drawn.
    """
    lines = dict(list(dvc_plots.curves(results).groupby(["pair", "row"])))
    drawn = [entry for entry in results.entries if not entry.missing and (entry.pair, entry.row.label) in lines]
    if not drawn:
        return None
    pairs = list(dict.fromkeys(entry.pair for entry in drawn))
    figure, panels, spare = _panels(pairs, "Test accuracy (%)", COLUMN if len(pairs) == 1 else TEXT)
    scales = sorted(results.card["scales"], key=by_size)
    looks = _looks(results)
    for pair, axes in panels.items():
        for row in (entry.row for entry in drawn if entry.pair == pair):
            line = lines[pair, row.label]
            look = looks[str(row.method)].line_over_epochs(row, scales)
            axes.plot(line["epoch"], line["test_top1"], label=row.label, linewidth=0.8, **look)
        _frame(axes)
    figure.supxlabel("Epoch")
    handles = _handles(panels.values())
    _legend(figure, {row.label: handles[row.label] for row in rows(results.card) if row.label in handles}, spare)
    return figure


def _frame(axes: Axes) -> None:
    """Frame the last two thirds of the longest line, and take lines outside the frame out of the legend."""
    points = [np.asarray(line.get_xydata(), dtype=float) for line in axes.lines]
    last = max(float(xy[:, 0].max()) for xy in points)
    low, high = _limits([float(value) for xy in points for value in xy[xy[:, 0] > last / 3, 1]])
    axes.set(xlim=(0, last), ylim=(low, high))
    for line, xy in zip(axes.lines, points, strict=True):
        if not ((low <= xy[:, 1]) & (xy[:, 1] <= high)).any():
            line.set_label(f"_{line.get_label()}")  # matplotlib's way to keep a line out of legends


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
    looks = _looks(results)
    for entry, other, mean in points:
        look = looks[entry.row.method] if entry.row.method else TEACHER
        axes.errorbar(
            other.top1, mean, entry.deviation, label=look.label, elinewidth=0.6, **look.point(bool(other.doubt))
        )
    limits = _limits([value for _, other, mean in points for value in (other.top1, mean)])
    axes.plot(limits, limits, color="0.6", linewidth=0.6, zorder=0)
    # Not aspect="equal": the layout would clip its axes below a high legend. The figure's size makes the axes square.
    axes.set(xlim=limits, ylim=limits)
    measured = ACCURACY[results.card["accuracy"]]
    axes.set(xlabel="Published top-1 accuracy (%)", ylabel=f"Measured {measured[0].lower()}{measured[1:]}")
    difference = float(np.mean([mean - other.top1 for _, other, mean in points]))
    text = f"n = {len(points)}, mean difference {_signed(difference)}"
    axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", size=6)
    handles = _handles([axes])
    if any(other.doubt for _, other, _ in points):
        handles["doubtful figure"] = Line2D([], [], color="0.5", marker="o", mfc="white", linestyle="")
    _legend(figure, handles, [])
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Write PDF and PNG from one layout."""
    with mpl.rc_context(STYLE):
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        image.quantize(PNG_COLOURS, dither=Image.Dither.NONE).save(
            path.with_suffix(".png"), optimize=True, dpi=(DPI, DPI)
        )
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def _panels(pairs: Sequence[str], label: str, width: float) -> tuple[Figure, dict[str, Axes], list[Axes]]:
    """Make a panel per pair, at most four beside each other; also returns the empty places of the last line."""
    lines = ceil(len(pairs) / 4)
    columns = ceil(len(pairs) / lines)
    figure = Figure(figsize=(width, 0.3 + lines * (1.5 if width / columns < 2 else 1.9)))
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in places[::columns]:
        axes.set_ylabel(label)
    panels = dict(zip(pairs, places, strict=False))
    for pair, axes in panels.items():
        axes.set_title(pair)
    for axes in places[len(pairs) :]:
        axes.axis("off")
    return figure, panels, places[len(pairs) :]


def _legend(figure: Figure, handles: dict[str, Any], spare: list[Axes]) -> None:
    """Draw one legend for all panels: in an empty place if it is short, else above the panels in a higher figure."""
    if spare and len(handles) <= 8:
        spare[0].legend(handles.values(), handles.keys(), loc="center")
        return
    columns = max(1, int(figure.get_figwidth() / (0.4 + 0.048 * max(map(len, handles)))))
    lines = ceil(len(handles) / columns)
    columns = ceil(len(handles) / lines)
    legend = figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    height = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer()).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def _handles(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return the first handle of every label."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles


def _heat(axes: Axes, entries: list[Entry], pairs: list[str], norm: CenteredNorm) -> QuadMesh:
    """Draw the panel of one method, pairs x rows."""
    columns = list(dict.fromkeys(entry.row for entry in entries))
    values = np.full((len(pairs), len(columns)), np.nan)
    for entry in entries:
        y, x = pairs.index(entry.pair), columns.index(entry.row)
        text, colour = "missing" if entry.missing else "no plain", "0.3"
        if entry.gain is not None:
            values[y, x] = entry.gain
            text, colour = _signed(entry.gain), _readable_on(DIVERGING(norm(entry.gain)))
            text += f" {BUDGET}" if entry.budget else ""
        weight = "bold" if entry.is_significant else "normal"
        axes.text(x, y, text, ha="center", va="center", size=5.5, color=colour, weight=weight)
    labels = [row.m + ("\n+ stand" if row.stand else "") for row in columns]
    axes.set_xticks(range(len(columns)), labels)
    axes.set_yticks(range(len(pairs)), pairs)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("0.92")
    edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(pairs) + 1) - 0.5
    mesh = axes.pcolormesh(*edges, values, cmap=DIVERGING, norm=norm, edgecolors="white", linewidth=0.8)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    return mesh


def _readable_on(colour: tuple[float, ...]) -> str:
    """Choose black or white by the luminance of an RGB colour (ITU-R BT.709)."""
    return "black" if float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722))) > 0.5 else "white"


def _looks(results: Results) -> dict[str, Look]:
    """Choose a look per method; the student trained alone is grey."""
    names = [name for name in (*results.card["methods"], *results.card["baselines"]) if name != catalog.VANILLA]
    looks = {
        name: Look(name.upper(), COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }
    return {catalog.VANILLA: Look("Student", ALONE, "p"), **looks}


def _limits(values: Iterable[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1
    return low - margin, high + margin


def _signed(value: float) -> str:
    """Format a difference with its sign, with the same minus as on the axes."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


FIGURES: dict[str, Callable[[Results], Figure | None]] = {
    "accuracy-over-scales": over_scales,
    "gains": gains,
    "curves": curves,
    "published": published,
}
