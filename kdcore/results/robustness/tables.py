"""Tables of errors on corrupted test images: a summary per pair, by corruption and by severity; and the numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdcore.matrix.robustness_section import CIFAR100_C, OURS
from kdcore.matrix.robustness_section import folder as folder_of
from kdcore.results.entry import EXCLUDED, MISSING, Entry
from kdcore.results.robustness.stored import SEVERITIES, Line, Measured, Score, read, reference, score
from kdcore.results.row import GROUPS, Card
from kdcore.results.rows import Results
from kdcore.results.typeset import Table, markdown
from kdcore.system import csvfile

NOTHING = "–"
NAMES = {
    CIFAR100_C: "CIFAR-100-C (arXiv:1903.12261)",
    OURS: "the project's own corruptions, to which no published figure is comparable,",
}
"""What readers see of a set."""


@dataclass(frozen=True)
class Measure:
    """One number of a network."""

    title: str
    about: str
    of: Callable[[Score], float | None]


MEASURES = (
    Measure("clean error", "on the test images as they are", lambda one: one.clean),
    Measure("mean error", "mean over corruptions and severities; not normalised", lambda one: one.mean),
    Measure("rise", "mean error minus clean error, percentage points", lambda one: one.rise),
    Measure(
        "mCE",
        "mean corruption error, normalised: each corruption's error as a percentage of that of the pair's student "
        "trained alone (mean over its seeds, without a variant), which so has 100; then the mean over corruptions",
        lambda one: one.mce,
    ),
    Measure(
        "relative mCE",
        "the same of the rise of each corruption's error over the clean one; none where the student's does not rise",
        lambda one: one.relative_mce,
    ),
)


def read_all(card: Card) -> dict[str, dict[str, Measured]]:
    """Read what was measured on every set of the matrix, set -> pair -> measurement; empty where it names no set.

    Raises:
        UserError: one is missing or damaged.
    """
    return {name: {pair: read(folder_of(name, pair)) for pair in card["pairs"]} for name in card.get("robustness", ())}


def lines(results: Results, name: str, pair: str) -> list[Line]:
    """Return the rows of a pair with what was measured of them on a set of corrupted images.

    A cell counts if it was measured on the weights that its evaluation was, which is so in a finished matrix.
    """
    measured, evaluation = results.robustness[name].get(pair), results.evaluation_of(pair)
    entries = results.entries_of(pair)
    if measured is None or evaluation is None:
        return [Line(entry, [], MISSING) for entry in entries]
    weights = {cell["name"]: cell["weights_sha256"] for cell in evaluation["cells"]}
    current = [one for one in measured["cells"] if weights.get(one["name"]) == one["weights_sha256"]]
    alone = reference({**measured, "cells": current}, results.card["seeds"])
    by_name = {one["name"]: score(one, measured["averaged"], alone) for one in current}
    teacher = score(measured["teacher"], measured["averaged"], alone)
    return [_line(results, entry, by_name, teacher) for entry in entries]


def _line(results: Results, entry: Entry, by_name: Mapping[str, Score], teacher: Score) -> Line:
    if entry.row.method is None:
        return Line(entry, [teacher], "")
    names = results.cells_of(entry)
    scores = [by_name[name] for name in names if name in by_name]
    lacks = MISSING if len(scores) < len(names) else "" if names else EXCLUDED
    return Line(entry, scores, lacks)


def write(results: Results, folder: Path) -> None:
    """Write the tables of every set into a folder; nothing where the matrix names none."""
    for name in results.robustness:
        text = markdown(tables(results, name), caption(results, name), notes(results, name))
        (folder / f"robustness-{name}.md").write_text(text, encoding="utf-8")
        csvfile.write(folder / f"robustness-{name}.csv", numbers(results, name))


def caption(results: Results, name: str) -> str:
    """Say what the numbers are, on which images, over how many seeds."""
    seeds = results.card["seeds"]
    over = f"mean ± sample standard deviation over n = {len(seeds)} seeds" if len(seeds) > 1 else "n = 1 seed"
    measured = next(iter(results.robustness[name].values()), None)
    images = "" if measured is None else f"{measured['test_images']:,} "
    return (
        f"Error (%, 100 minus top-1) on the {images}test images of {results.card['data']} under {NAMES[name]} at "
        f"{SEVERITIES} severities; {over}; weights of the last epoch."
    )


def notes(results: Results, name: str) -> list[str]:
    """Explain the columns, and name the corruptions that are part of no average."""
    explained = [f"{measure.title}: {measure.about}." for measure in MEASURES]
    more = _more(results, name)
    return explained + ([f"* {', '.join(more)}: part of no average, as published."] if more else [])


def _more(results: Results, name: str) -> list[str]:
    return next((measured["more"] for measured in results.robustness[name].values()), [])


def tables(results: Results, name: str) -> list[Table]:
    """Make the tables of a set: per pair the summary, the error by corruption, and by severity."""
    more, found = _more(results, name), []
    for pair in results.card["pairs"]:
        rows = lines(results, name, pair)
        corruptions = [name for line in rows for one in line.scores[:1] for name in one.by_corruption]
        by_corruption = {
            f"{corruption}{'*' if corruption in more else ''}": _mean(rows, _of_corruption(corruption))
            for corruption in dict.fromkeys(corruptions)
        }
        by_severity = {
            f"severity {number + 1}": _mean(rows, _of_severity(number)) for number in range(SEVERITIES if rows else 0)
        }
        found.append(_table(f"summary of {pair}", rows, {one.title: _mean(rows, one.of) for one in MEASURES}))
        if by_corruption:
            found.append(_table(f"errors of {pair} by corruption, means over severities", rows, by_corruption))
            found.append(_table(f"errors of {pair} by severity, means over corruptions", rows, by_severity))
    return found


def _of_corruption(name: str) -> Callable[[Score], float]:
    return lambda one: one.by_corruption[name]


def _of_severity(number: int) -> Callable[[Score], float]:
    return lambda one: one.by_severity[number]


def _mean(rows: Sequence[Line], of: Callable[[Score], float | None]) -> list[str]:
    """Write a number of each row: "35.20 ± 0.31", why there is none, or a dash where it is not defined."""
    texts = []
    for row in rows:
        found = row.mean_of([of(one) for one in row.scores])
        if found is None:
            texts.append(row.lacks or NOTHING)
        else:
            mean, deviation = found
            texts.append(f"{round(mean, 2) + 0:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}"))  # no -0.00
    return texts


def _table(name: str, rows: Sequence[Line], columns: Mapping[str, list[str]]) -> Table:
    """Put a table together, with the titles of groups of rows where there are several methods'."""
    labels, titles = ([of(row) for row in rows] for of in (_label, _title))
    heads = pd.MultiIndex.from_tuples([(head, "") for head in columns])
    text = pd.DataFrame(dict(enumerate(columns.values())), index=labels).set_axis(heads, axis=1)
    bold = pd.DataFrame(False, index=text.index, columns=text.columns)
    return Table(name, text, bold, titles if len({*titles} - {GROUPS["alone"]}) > 1 else [])


def _label(row: Line) -> str:
    return row.entry.row.label


def _title(row: Line) -> str:
    return GROUPS[row.entry.row.group]


def numbers(results: Results, name: str) -> pd.DataFrame:
    """Return every error as a number: a line per network, corruption and severity; the clean one has severity 0."""
    found = []
    for pair, measured in results.robustness[name].items():
        labels = {cell: entry.row.label for entry in results.entries_of(pair) for cell in results.cells_of(entry)}
        for one in (measured["teacher"], *measured["cells"]):
            cell = one.get("name", "")
            about = {"pair": pair, "row": labels.get(cell, "Teacher"), "cell": cell, "seed": one.get("seed")}
            found.append({**about, "corruption": "clean", "severity": 0, "averaged": False, "error": one["clean"]})
            for corruption, errors in one["error"].items():
                is_averaged = corruption in measured["averaged"]
                found += [
                    {**about, "corruption": corruption, "severity": severity, "averaged": is_averaged, "error": error}
                    for severity, error in enumerate(errors, 1)
                ]
    return pd.DataFrame(found)


def metrics(results: Results) -> dict[str, Any]:
    """Return the means over seeds for metrics.json: under "robustness", set -> pair -> method -> row -> `mean_error`
    (percent) and `mce`, rounded to hundredths; None where a seed is missing. Empty where the matrix names no set.
    """
    found: dict[str, Any] = {}
    for name in results.robustness:
        for pair in results.card["pairs"]:
            for line in lines(results, name, pair):
                row = line.entry.row
                of_method = found.setdefault(name, {}).setdefault(pair, {}).setdefault(row.method or "teacher", {})
                of_method[row.key] = {
                    key: None if (both := line.mean_of([of(one) for one in line.scores])) is None else round(both[0], 2)
                    for key, of in (("mean_error", lambda one: one.mean), ("mce", lambda one: one.mce))
                }
    return {"robustness": found} if found else {}
