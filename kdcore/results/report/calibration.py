"""The reliability diagrams of the page: accuracy over confidence."""

import math
from typing import Any

from kdcore.results import dvc_plots
from kdcore.results.entry import Entry, Place
from kdcore.results.report.charts import Figure, Group, Key, groups, places_of, row_styles
from kdcore.results.report.svg import Chart, Style, linear
from kdcore.results.rows import Results

TEACHER = "Teacher"


def reliability(results: Results) -> list[Figure]:
    """Draw reliability diagrams: a figure per pair, a chart per method, seeds pooled, the teacher for comparison."""
    return [_reliability_figure(results, pair) for pair in results.card["pairs"]]


def _reliability_figure(results: Results, pair: str) -> Figure:
    if results.evaluation_of(pair) is None:
        return Figure(pair, lacks="This pair has not been evaluated yet.", of=places_of(results, pair))
    found = []
    for title, entries in groups(results, pair).items():
        chart, shown = _reliability_chart(results, pair, title, entries)
        if chart.lines:
            found.append(Group(title, shown, [chart]))
    lacks = "The evaluation of this pair has no reliability bins; they are measured when it is evaluated again."
    return Figure(pair, found, "" if found else lacks, of=places_of(results, pair))


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
        keys += [Key(TEACHER, grey)] * _draw_bins(chart, TEACHER, grey, results.measured(teacher))  # whatever is chosen
    for entry, style in zip(entries, row_styles(entries), strict=True):
        cells = results.measured(entry)
        if _draw_bins(chart, entry.row.label, style, cells, (entry.place,)):
            keys.append(Key(entry.row.label, style, of=(entry.place,)))
            told.append(f"{entry.row.label} {sum(cell['ece'] for cell in cells) / len(cells):.2f}")
    chart.description = (
        "Accuracy over confidence in bins of equal width; below the diagonal, predictions are overconfident. "
        f"Expected calibration error in percent: {'; '.join(told)}."
    )
    return chart, keys


def _draw_bins(chart: Chart, label: str, style: Style, cells: list[dict[str, Any]], of: tuple[Place, ...] = ()) -> bool:
    """Draw a line through the bins of all seeds, marks as large as the bins' share; return whether there was one."""
    measured = [cell for cell in cells if "reliability" in cell]
    if not measured:
        return False
    pooled = dvc_plots.pooled(measured)
    bins = list(zip(pooled["count"], pooled["confidence"], pooled["accuracy"], strict=True))
    total = sum(count for count, _, _ in bins)
    chart.line(label, style, [(100 * confidence, 100 * accuracy) for _, confidence, accuracy in bins], of=of)
    for count, confidence, accuracy in bins:
        text = f"{label}: confidence {confidence:.1%}, accuracy {accuracy:.1%}, {count / total:.1%} of predictions"
        size = 1.2 + 3.3 * math.sqrt(count / total)
        chart.mark(text, style, 100 * confidence, 100 * accuracy, radius=size, of=of)
    return True
