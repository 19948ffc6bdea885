"""Heat maps of gains: pairs x rows, a panel per method and variant."""

from itertools import product
from math import ceil

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from kdcore import catalog
from kdcore.matrix.cell import BASE
from kdcore.results import drawing
from kdcore.results.drawing import DIVERGING, STYLE, TEXT
from kdcore.results.entry import MISSING, PLAIN, STUDENT, Entry
from kdcore.results.row import Card, Row, common_label
from kdcore.results.rows import Results

COLUMNS = 12
"""How many rows of the matrix stand beside each other, at most."""
SIDES, CHARACTER = 1.9, 0.06
"""Inches that the names of pairs and the colour bar take, and that a character of a title takes."""


def over_plain(results: Results) -> Figure | None:
    """Draw the gains of logit methods over their plain rows."""
    shown = [entry for entry in results.entries if entry.row.scale is not None]
    return _figure(results, [entry for entry in shown if not (entry.row.is_plain and entry.row.variant == BASE)], PLAIN)


def over_student(results: Results) -> Figure | None:
    """Draw the gains of all methods over the student trained alone; feature methods have a panel of their own."""
    shown = [entry for entry in results.entries if entry.row.method not in (None, catalog.VANILLA)]
    return _figure(results, shown, STUDENT)


@mpl.rc_context(STYLE)
def _figure(results: Results, shown: list[Entry], kind: str) -> Figure | None:
    """Draw gains in percentage points; bold where seeds support them. None where no row has a gain.

    A field without a gain says what is missing. ↓ marks a row below the student alone, § another budget.
    """
    values = [entry.gains[kind].points for entry in shown if kind in entry.gains]
    if not values:
        return None
    pairs, groups = results.card["pairs"], _groups(shown, results.card)
    widest = max(len({entry.row for entry in entries}) for entries in groups.values())
    titles = max(len(line) for name in groups for line in name.split("\n"))
    beside = min(COLUMNS // widest, int((TEXT - SIDES) / (CHARACTER * titles)))
    columns = min(len(groups), max(1, beside))
    lines = ceil(len(groups) / columns)
    width = min(TEXT, SIDES + max(0.5 * widest, CHARACTER * titles) * columns)
    figure = Figure(figsize=(width, max(1.2, lines * (0.55 + 0.19 * len(pairs)))))
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    norm = CenteredNorm(0, halfrange=1.2 * max(0.01, *map(abs, values)))
    for (name, entries), axes in zip(groups.items(), grid.flat, strict=False):
        mesh = _heat(axes, entries, pairs, norm, kind=kind)
        axes.set_title(name)
    for axes in grid.flat[len(groups) :]:
        axes.remove()
    bar = figure.colorbar(mesh, ax=list(grid.flat[: len(groups)]), label="Gain (points)", pad=0.01, fraction=0.03)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")
    return figure


def _groups(shown: list[Entry], card: Card) -> dict[str, list[Entry]]:
    """Group entries by method and variant, the method's base first, those without M together and last; under titles."""
    logit = [entry for entry in shown if entry.row.scale is not None]
    feature = [entry for entry in shown if entry.row.scale is None]
    groups = {}
    for method, variant in product(card["methods"], card["variants"]):
        entries = [entry for entry in logit if (entry.row.method, entry.row.variant) == (method, variant)]
        if entries:
            groups[common_label(entry.row for entry in entries)] = entries
    return {**groups, **({"Feature methods": feature} if feature else {})}


def _heat(axes: Axes, entries: list[Entry], pairs: list[str], norm: CenteredNorm, *, kind: str) -> QuadMesh:
    """Draw one panel, pairs x rows."""
    columns = list(dict.fromkeys(entry.row for entry in entries))
    values = np.full((len(pairs), len(columns)), np.nan)
    for entry in entries:
        y, x = pairs.index(entry.pair), columns.index(entry.row)
        gain = entry.gains.get(kind)
        text, colour = f"no {kind}" if not entry.lacks else MISSING if entry.missing else entry.lacks, "0.3"
        if gain is not None:
            values[y, x] = gain.points
            text, colour = drawing.signed(gain.points), drawing.readable_on(DIVERGING(norm(gain.points)))
            text += (f"\nn = {gain.shared}" if gain.shared else "") + entry.signs
        weight = "bold" if gain is not None and gain.is_supported else "normal"
        axes.text(x, y, text, ha="center", va="center", size=5.5, color=colour, weight=weight)
    axes.set_xticks(range(len(columns)), [_column(row) for row in columns])
    if any(row.scale is None and row.change for row in columns):  # such labels are long
        axes.tick_params(axis="x", labelrotation=20)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(pairs)), pairs)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("0.92")
    edges = np.arange(len(columns) + 1) - 0.5, np.arange(len(pairs) + 1) - 0.5
    mesh = axes.pcolormesh(*edges, values, cmap=DIVERGING, norm=norm, edgecolors="white", linewidth=0.8)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    return mesh


def _column(row: Row) -> str:
    """Name a column in a panel of its method and variant."""
    return row.label if row.scale is None else row.m + "\n+ stand" * bool(row.stand)
