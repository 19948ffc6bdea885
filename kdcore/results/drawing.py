"""What all figures share: their style, the looks of methods, panels, legends, and the files they become."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kdcore import catalog
from kdcore.results.entry import BUDGET, Entry
from kdcore.results.row import Card, Row, printed
from kdcore.results.rows import Results

Key = TypeVar("Key", bound=Hashable)
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
LONGEST_TITLE, TITLE_LINE = 24, 0.11
"""How many characters a line of a title has, and how many inches further lines are high."""
MOST_TICKS = 8
"""How many numbers have room below a panel."""
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


def looks(results: Results) -> dict[str, Look]:
    """Choose a look per method; the student trained alone is grey."""
    names = [name for name in (*results.card["methods"], *results.card["baselines"]) if name != catalog.VANILLA]
    of_methods = {name: look(printed(name), i, i) for i, name in enumerate(names)}
    return {catalog.VANILLA: Look("Student", ALONE, "p"), **of_methods}


def look(label: str, colour: int, mark: int) -> Look:
    """Choose a look by the numbers of its colour and its mark."""
    return Look(label, COLOURS[colour % len(COLOURS)], MARKERS[mark % len(MARKERS)])


def number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Label the values along x where the others leave room for them; on a logarithmic axis from a decade on."""
    is_log = min(values) > 0 and max(values) > 10 * min(values)
    if is_log:
        axes.set_xscale("log")
    at = [float(np.log10(value)) if is_log else value for value in values]
    room = (max(at) - min(at)) / MOST_TICKS
    shown = [0]
    for i, place in enumerate(at):
        if place - at[shown[-1]] >= room:
            shown.append(i)
    axes.set_xticks([values[i] for i in shown], [f"{values[i]:g}" for i in shown])
    axes.minorticks_off()


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write PDF and PNG from one layout."""
    with mpl.rc_context(STYLE):
        figure.set_dpi(DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        figure.set_layout_engine("none")
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        image = image.quantize(PNG_COLOURS, dither=Image.Dither.NONE)
        image.save(folder / f"{name}.png", optimize=True, dpi=(DPI, DPI))
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})


def panels(titles: Mapping[Key, str], label: str, width: float) -> tuple[Figure, dict[Key, Axes], list[Axes]]:
    """Make a panel per title, at most four beside each other; also returns the empty places of the last line."""
    lines = ceil(len(titles) / 4)
    columns = ceil(len(titles) / lines)
    titled = TITLE_LINE * max(title.count("\n") for title in titles.values())
    figure = Figure(figsize=(width, 0.3 + lines * (titled + (1.5 if width / columns < 2 else 1.9))))
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in places[::columns]:
        axes.set_ylabel(label)
    for axes, title in zip(places, titles.values(), strict=False):
        axes.set_title(title)
    for axes in places[len(titles) :]:
        axes.axis("off")
    return figure, dict(zip(titles, places, strict=False)), places[len(titles) :]


def of_variants(entries: Sequence[Entry], card: Card) -> dict[tuple[str, str], list[Entry]]:
    """Group entries by what has a panel of its own, pair and variant, in the order of the matrix."""
    groups: dict[tuple[str, str], list[Entry]] = {key: [] for key in product(card["pairs"], card["variants"])}
    for entry in entries:
        groups[entry.pair, entry.row.variant].append(entry)
    return {key: group for key, group in groups.items() if group}


def panel_titles(groups: Mapping[tuple[str, str], list[Entry]]) -> dict[tuple[str, str], str]:
    """Title panels of pairs and variants: the pair, and below it what the variant changes."""
    changes = {key: max((entry.row.change for entry in entries), key=len) for key, entries in groups.items()}
    lines = {key: wrap(change, LONGEST_TITLE, break_long_words=False) for key, change in changes.items()}
    return {key: "\n".join([key[0], *lines[key]]) for key in changes}  # no number is broken: "symmetric=0.5"


def legend(figure: Figure, handles: dict[str, Any], spare: list[Axes]) -> None:
    """Draw one legend for all panels: in an empty place if it is short, else above the panels in a higher figure."""
    if spare and len(handles) <= 8:
        spare[0].legend(handles.values(), handles.keys(), loc="center")
        return
    columns = max(1, int(figure.get_figwidth() / (0.4 + 0.048 * max(map(len, handles)))))
    lines = ceil(len(handles) / columns)
    columns = ceil(len(handles) / lines)
    drawn = figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    height = drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def handles(panels: Iterable[Axes]) -> dict[str, Any]:
    """Return the first handle of every label."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return found


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of an axis that holds some values, with a margin."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 1
    return low - margin, high + margin


def signed(value: float) -> str:
    """Format a difference with its sign, with the same minus as on the axes."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def readable_on(colour: tuple[float, ...]) -> str:
    """Choose black or white by the luminance of an RGB colour (ITU-R BT.709)."""
    return "black" if float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722))) > 0.5 else "white"


def mark_budgets(axes: Axes, x: Iterable[float], entries: list[Entry], colour: str) -> None:
    """Write § beside the points that were trained with another budget; a label would mark them in every panel."""
    for at, entry in zip(x, entries, strict=True):
        if entry.budget and entry.mean is not None:
            axes.annotate(BUDGET, (at, entry.mean), xytext=(2, 2), textcoords="offset points", size=5, color=colour)
