"""The results of a matrix by row and pair, beside what was published: what tables, figures and the page show."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.cell import Cell
from kdcore.results import significance
from kdcore.results.published import Figure, Published
from kdcore.results.significance import ALPHA, Comparison
from kdcore.system import validated
from kdcore.system.validated import Provenance, Stored
from kdcore.training.timings import Timing

METRICS, CURVES = "metrics.json", "curves.csv"
"""The files that stage evaluate writes for a pair."""
Card = dict[str, Any]
Evaluation = dict[str, Any]


class _Cost(Stored):
    parameters: int
    multiply_adds: int


class _Bins(Stored):
    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


class _Teacher(_Cost):
    top1: float
    reliability: _Bins | None = None


class _Cell(Provenance):
    name: str
    pair: str
    method: str
    seed: int
    top1: float
    top5: float
    nll: float
    ece: float
    agreement: float
    top1_best: float
    epochs: int
    weights_sha256: str
    reliability: _Bins | None = None
    collapsed: str = ""


class _Evaluation(Stored):
    """The keys of metrics.json that tables, figures and the report read."""

    pair: str
    train_images: int
    classes: int
    teacher: _Teacher
    student: _Cost
    cells: list[_Cell]


@dataclass(frozen=True)
class Row:
    """One row of the table: an experiment without its pair and seed."""

    label: str
    method: str | None
    """None for the teacher's row."""
    scale: int | str | None = None
    stand: bool | None = None

    @property
    def levels(self) -> list[int] | None:
        """Levels of the pyramid of regions (M); None for the teacher, baselines and feature methods."""
        return None if self.scale is None else list(levels(self.scale))

    @property
    def m(self) -> str:
        """The levels in brackets: "[1,2]"."""
        return f"[{','.join(map(str, self.levels or []))}]"

    @property
    def is_plain(self) -> bool:
        """Whether this is a logit method without regions and without standardisation."""
        return self.levels == [1] and not self.stand

    def holds(self, cell: dict[str, Any]) -> bool:
        """Whether a cell of an evaluation is one of this row's seeds."""
        return (cell["method"], cell.get("scale"), cell.get("stand")) == (self.method, self.scale, self.stand)


@dataclass(frozen=True)
class Entry:
    """One row for one pair."""

    pair: str
    row: Row
    values: tuple[float, ...]
    """Accuracies in percent, one per seed that has a result, in the order of the matrix; one for the teacher."""
    missing: tuple[int, ...] = ()
    """Seeds that the matrix declares and that have no result."""
    figure: Figure | None = None
    """The published accuracy."""
    budget: tuple[str, ...] = ()
    """How its cells' training differs from what the caption says: other epochs, more views of each image."""
    gain: float | None = None
    """Percentage points above the plain row of the method; None for that row itself and for rows without one."""
    compared: Comparison | None = None
    """The test of the gain over the seeds, with the noise of all the method's rows (`significance.in_blocks`); None
    where the seeds do not show their noise.
    """
    adjusted: float | None = None
    """The comparison's p, adjusted for all gains of the pair (`significance.holm`)."""

    @property
    def seeds(self) -> int:
        """How many seeds the matrix declares."""
        return len(self.values) + len(self.missing)

    @property
    def is_significant(self) -> bool:
        """Whether seeds support the gain: it is above 0, and its adjusted p below `significance.ALPHA`."""
        return self.adjusted is not None and self.adjusted < ALPHA and (self.gain or 0) > 0

    @property
    def mean(self) -> float | None:
        """Mean over seeds in percent; None where a seed is missing, because no seed is left out of a mean."""
        return None if self.missing else mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed, or where one is missing."""
        return None if self.missing or len(self.values) < 2 else stdev(self.values)

    @property
    def difference(self) -> float | None:
        """Measured minus published, percentage points."""
        return None if self.mean is None or self.figure is None else self.mean - self.figure.top1

    @property
    def is_within_noise(self) -> bool | None:
        """Whether the published figure is one that another seed might have given; None where seeds cannot tell."""
        if self.figure is None or self.difference is None:
            return None
        allowed = significance.noise(self.values, self.figure.runs)
        return None if allowed is None else abs(self.difference) <= allowed


@dataclass(frozen=True)
class Results:
    """All that tables, figures and the report show."""

    card: Card
    """The card of stage tables (see `kdcore.matrix.cards`)."""
    evaluations: list[Evaluation]
    """One per pair (see `kdcore.results.evaluation`)."""
    histories: dict[str, pd.DataFrame]
    """Per pair, a line per cell and epoch: cell, epoch, lr, loss, ce, each method's loss, train_top1, test_top1."""
    published: Published
    entries: list[Entry]
    """Pair by pair, the rows in their order."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """Training times by the names of cells. Stage tables has none: its outputs must be the same on every run."""

    @classmethod
    def of(
        cls,
        card: Card,
        evaluations: list[Evaluation],
        histories: dict[str, pd.DataFrame],
        published: Published,
        timings: dict[str, Timing] | None = None,
    ) -> "Results":
        """Put results together, with the entries that follow from them."""
        return cls(card, evaluations, histories, published, collect(card, evaluations, published), timings or {})

    def entries_of(self, pair: str) -> list[Entry]:
        """Return the entries of one pair."""
        return [entry for entry in self.entries if entry.pair == pair]

    @property
    def beside_published(self) -> list[tuple[Entry, Figure, float]]:
        """The entries that were both measured and published, each with the published figure and the measured mean."""
        return [(e, e.figure, e.mean) for e in self.entries if e.figure is not None and e.mean is not None]

    def evaluation_of(self, pair: str) -> Evaluation | None:
        """Return what was measured of a pair; None where nothing was yet."""
        return next((evaluation for evaluation in self.evaluations if evaluation["pair"] == pair), None)

    def measured(self, entry: Entry) -> list[dict[str, Any]]:
        """Return what was measured of each network of a row: its seeds' cells, or the teacher."""
        evaluation = self.evaluation_of(entry.pair)
        if evaluation is None:
            return []
        if entry.row.method is None:
            return [evaluation["teacher"]]
        return [cell for cell in evaluation["cells"] if entry.row.holds(cell)]

    def cells_of(self, entry: Entry) -> list[str]:
        """Name the cells that the matrix declares for a row, one per seed; none for the teacher's row."""
        row = entry.row
        if row.method is None:
            return []
        return [Cell(entry.pair, row.method, seed, row.scale, row.stand).name for seed in self.card["seeds"]]


def read_evaluation(folder: Path) -> Evaluation:
    """Read what stage evaluate measured of a pair.

    Raises:
        UserError: it is missing or damaged.
    """
    return validated.read_checked(folder / METRICS, _Evaluation)


def read_curves(folder: Path, evaluation: Evaluation) -> pd.DataFrame:
    """Read the histories of a pair's cells, for `Results.histories`.

    Raises:
        UserError: they are missing or damaged, or a cell's epochs are not all there.
    """
    file = folder / CURVES
    curves = validated.read_table(file, ("epoch", "train_top1", "test_top1"))
    expected = {cell["name"]: cell["epochs"] for cell in evaluation["cells"]}
    if "cell" not in curves or curves["cell"].value_counts().to_dict() != expected:
        raise validated.damaged(file, f"its cells and epochs are not those of {METRICS}")
    return curves


def rows(card: Card) -> list[Row]:
    """Return the rows of the table in order: teacher, baselines, and per method plain, SDD, stand and both."""
    ordered = [Row("Teacher", None)]
    for baseline in card["baselines"]:
        ordered.append(Row("Student" if baseline == catalog.VANILLA else baseline.upper(), baseline))
    for method in card["methods"]:
        for stand in sorted(card["stand"]):
            for scale in sorted(card["scales"], key=by_size):
                row = Row(method.upper(), method, scale, stand)
                label = row.label + (f" + SDD {row.m}" if row.levels != [1] else "") + (" + stand" if stand else "")
                ordered.append(replace(row, label=label))
    return ordered


def by_size(scale: int | str) -> tuple[int, int, tuple[int, ...]]:
    """Sort key of a scale: its finest level, then how many levels it has, then the levels themselves."""
    return max(levels(scale)), len(levels(scale)), levels(scale)


def collect(card: Card, evaluations: list[Evaluation], published: Published) -> list[Entry]:
    """Return what was measured and published for every row and pair that the matrix declares, finished or not."""
    by_pair = {evaluation["pair"]: evaluation for evaluation in evaluations}
    return [entry for pair in card["pairs"] for entry in _entries(card, pair, by_pair.get(pair), published)]


def reasons(meta: dict[str, Any]) -> list[str]:
    """Return why changes of code were accepted without training a cell or teacher again, each reason once."""
    return list(dict.fromkeys(" ".join(accepted["reason"].split()) for accepted in meta.get("accepted", ())))


def several_views(method: str) -> str:
    """Return "weak and strong views of each image" for a method that trains on more than one, else nothing."""
    views = max((entry.views for entry in catalog.terms(method)), key=len, default=())
    return f"{' and '.join(views)} views of each image" if len(views) > 1 else ""


def _entries(card: Card, pair: str, evaluation: Evaluation | None, published: Published) -> Iterator[Entry]:
    entries = [_entry(card, pair, row, evaluation, published) for row in rows(card)]
    gained = {entry.row: entry for method in card["methods"] for entry in _with_gains(entries, method)}
    compared = [gained.get(entry.row, entry) for entry in entries]
    adjusted = iter(significance.holm([entry.compared.p for entry in compared if entry.compared is not None]))
    for entry in compared:
        yield entry if entry.compared is None else replace(entry, adjusted=next(adjusted))


def _with_gains(entries: list[Entry], method: str) -> Iterator[Entry]:
    """Compare the rows of a method that have all their seeds with the plain row; yield none where that is missing."""
    whole = [entry for entry in entries if entry.row.method == method and not entry.missing]
    plain = next((entry for entry in whole if entry.row.is_plain), None)
    if plain is not None:
        others = [entry for entry in whole if entry is not plain]
        comparisons = significance.in_blocks([list(entry.values) for entry in (plain, *others)])
        for entry, compared in zip(others, comparisons, strict=True):
            yield replace(entry, gain=mean(entry.values) - mean(plain.values), compared=compared)


def _entry(card: Card, pair: str, row: Row, evaluation: Evaluation | None, published: Published) -> Entry:
    figure = None  # nothing is published about a part of a data set
    if not card["subset"]:
        figure = figure_of(pair, row, published, optimizer=card["optimizer"], stand_recipe=card["stand_recipe"])
    cells = [] if evaluation is None else evaluation["cells"]
    if row.method is None:
        teacher = () if evaluation is None else (evaluation["teacher"]["top1"],)
        return Entry(pair, row, teacher, () if teacher else (card["seeds"][0],), figure)
    held = {cell["seed"]: cell for cell in cells if row.holds(cell)}
    accuracies = tuple(held[seed][card["accuracy"]] for seed in card["seeds"] if seed in held)
    missing = tuple(seed for seed in card["seeds"] if seed not in held)
    other_epochs = sorted({cell["epochs"] for cell in held.values()} - {card["epochs"]})
    budget = (*(f"{count} epochs" for count in other_epochs), several_views(row.method))
    return Entry(pair, row, accuracies, missing, figure, tuple(filter(None, budget)))


def figure_of(pair: str, row: Row, published: Published, *, optimizer: str, stand_recipe: str) -> Figure | None:
    """Find what was published for a row; None where nothing was.

    Args:
        pair: teacher-student.
        row: the row of the table.
        published: the figures of the data set.
        optimizer: "sgd" or "dot".
        stand_recipe: "paper", or "matched", which no publication has.
    """
    teacher, student = pair.split("-")
    if row.method is None:
        return published.find(None, teacher, catalog.VANILLA)
    if row.stand and stand_recipe == "matched":
        return None  # publications change temperature and weight too
    if row.method == catalog.VANILLA:
        return published.find(None, student, row.method)
    return published.find(teacher, student, row.method, row.levels, row.stand, optimizer=optimizer)
