"""Errors on corrupted test images, as the page shows them: two tables per set, and error over severity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kdcore.results.report.charts import Figure, Group, Key, groups, places_of, row_styles
from kdcore.results.report.svg import Chart, linear, whole
from kdcore.results.report.values import ABSENT, Column, Sheet, Value, number
from kdcore.results.robustness.stored import SEVERITIES, Line, Score
from kdcore.results.robustness.tables import MEASURES, NAMES, caption, lines, notes
from kdcore.results.rows import Results

Numbers = tuple[Column, Callable[[Score], float | None]]
"""The head of a column, and the number of each network in it."""


@dataclass(frozen=True)
class Shown:
    """What the page shows of one set of corrupted images."""

    title: str
    text: str
    notes: list[str]
    sheets: list[Sheet]
    figures: list[Figure]


def sets(results: Results) -> list[Shown]:
    """Show every set that the matrix names; none where it names none."""
    return [_shown(results, name) for name in results.robustness]


def _shown(results: Results, name: str) -> Shown:
    by_pair = {pair: lines(results, name, pair) for pair in results.card["pairs"]}
    everything = [line for some in by_pair.values() for line in some]
    corruptions = dict.fromkeys(key for line in everything for one in line.scores for key in one.by_corruption)
    summary = [(Column(measure.title, about=measure.about), measure.of) for measure in MEASURES]
    by_corruption = [(Column(corruption), _of_corruption(corruption)) for corruption in corruptions]
    sheets = [
        _sheet(f"Summary, {name}", everything, summary),
        *(
            [_sheet(f"Errors by corruption, means over severities, {name}", everything, by_corruption)]
            * bool(corruptions)
        ),
    ]
    figures = [_figure(results, pair, some) for pair, some in by_pair.items()]
    remarks = notes(results, name)[len(MEASURES) :]  # what the columns hold stands below the table
    return Shown(NAMES[name].partition(",")[0].partition(" (")[0], caption(results, name), remarks, sheets, figures)


def _of_corruption(name: str) -> Callable[[Score], float]:
    return lambda one: one.by_corruption[name]


def _sheet(title: str, rows: list[Line], columns: Sequence[Numbers]) -> Sheet:
    """Make a table of all rows of all pairs, a column per number."""
    heads = (Column("Pair", is_number=False), Column("Row", is_number=False))
    table = [
        [Value(row.entry.pair), Value(row.entry.row.label), *(_value(row, of) for _, of in columns)] for row in rows
    ]
    groups_of = [(row.entry.pair, row.entry.row.group) for row in rows]
    starts = frozenset(i for i, (before, group) in enumerate(pairwise(groups_of), 1) if group != before)
    of = [(row.entry.place,) for row in rows]
    return Sheet(title, (*heads, *(column for column, _ in columns)), table, heads=2, of=of, starts=starts)


def _value(row: Line, of: Callable[[Score], float | None]) -> Value:
    found = row.mean_of([of(one) for one in row.scores])
    if found is None:
        return Value(row.lacks, is_absent=True) if row.lacks else ABSENT
    return number(round(found[0], 2) + 0)  # no -0.00


def _figure(results: Results, pair: str, rows: list[Line]) -> Figure:
    """Draw error over severity: a chart per method of a pair, the teacher for comparison in the table alone."""
    of_row = {row.entry.row: row for row in rows if row.scores and not row.lacks}
    drawn = {title: [entry for entry in some if entry.row in of_row] for title, some in groups(results, pair).items()}
    drawn = {title: some for title, some in drawn.items() if some}
    if not drawn:
        return Figure(pair, lacks="No row of this pair has all its seeds measured yet.", of=places_of(results, pair))
    means = {row: _by_severity(line) for row, line in of_row.items()}
    y = linear("Mean error (%)", [value for row in means.values() for value in row])
    made = []
    for title, entries in drawn.items():
        told = "; ".join(f"{entry.row.label} {means[entry.row][-1]:.2f}" for entry in entries)
        text = f"Line chart over severities 1 to {SEVERITIES}. Means over corruptions and seeds at severity 5: {told}."
        chart = Chart(f"Error over severity of {pair}, {title}", text, whole("Severity", 1, SEVERITIES), y)
        keys = []
        for entry, style in zip(entries, row_styles(entries), strict=True):
            chart.line(entry.row.label, style, list(enumerate(means[entry.row], 1)), of=(entry.place,))
            keys.append(Key(entry.row.label, style, of=(entry.place,)))
        made.append(Group(title, keys, [chart]))
    return Figure(pair, made, of=places_of(results, pair))


def _by_severity(row: Line) -> list[float]:
    return [sum(one.by_severity[i] for one in row.scores) / len(row.scores) for i in range(SEVERITIES)]
