"""What a matrix measured, row by row and pair by pair, beside what was published: the ground of tables and figures."""

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
"""Files of an evaluation."""
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
        """Pyramid levels, None for rows without M."""
        return None if self.scale is None else list(levels(self.scale))

    @property
    def is_plain(self) -> bool:
        """A logit method as its paper has it."""
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
    """Percent, one per seed that has a result, in the order of the matrix; the teacher's one."""
    missing: tuple[int, ...] = ()
    """Seeds that the matrix declares and that have no result."""
    figure: Figure | None = None
    """The published one."""
    budget: tuple[str, ...] = ()
    """What its cells were trained with that the caption does not say: other epochs, more views of each image."""
    gain: float | None = None
    """Over the plain row of the method, percentage points; None for that row itself and for rows without one."""
    compared: Comparison | None = None
    """With the plain row, over the seeds, in the blocks of the method's rows (`significance.in_blocks`); None
    where seeds tell nothing of their noise.
    """
    adjusted: float | None = None
    """The comparison's p, adjusted for all gains of the pair (`kdcore.results.significance.holm`)."""

    @property
    def is_significant(self) -> bool:
        """Whether seeds support the gain: it is above 0, and its adjusted p below `significance.ALPHA`."""
        return self.adjusted is not None and self.adjusted < ALPHA and (self.gain or 0) > 0

    @property
    def mean(self) -> float | None:
        """Over seeds; None where one is missing, for no seed is left out of a mean."""
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
    """Of stage tables (see `kdcore.matrix.cards`)."""
    evaluations: list[Evaluation]
    """One per pair (see `kdcore.results.evaluation`)."""
    histories: dict[str, pd.DataFrame]
    """Per pair, a line per cell and epoch: cell, epoch, lr, loss, ce, each method's loss, train_top1, test_top1."""
    published: Published
    entries: list[Entry]
    """Pair by pair, the rows in their order."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """Of cells, by their names, where a clock's time is wanted: it differs each time that results are computed."""

    @classmethod
    def of(
        cls,
        card: Card,
        evaluations: list[Evaluation],
        histories: dict[str, pd.DataFrame],
        published: Published,
        timings: dict[str, Timing] | None = None,
    ) -> "Results":
        """Put together."""
        return cls(card, evaluations, histories, published, collect(card, evaluations, published), timings or {})

    def of_pair(self, pair: str) -> list[Entry]:
        """The rows of one pair."""
        return [entry for entry in self.entries if entry.pair == pair]

    def cells_of(self, entry: Entry) -> list[str]:
        """The names of the cells that the matrix declares for a row, one per seed; none for the teacher's."""
        row = entry.row
        if row.method is None:
            return []
        return [Cell(entry.pair, row.method, seed, row.scale, row.stand).name for seed in self.card["seeds"]]


def read_evaluation(folder: Path) -> Evaluation:
    """What stage evaluate measured of a pair.

    Raises:
        UserError: it is missing or damaged.
    """
    return validated.read_checked(folder / METRICS, _Evaluation)


def read_curves(folder: Path, evaluation: Evaluation) -> pd.DataFrame:
    """The histories of its cells, as `Results.histories` has them.

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
    """The rows of the table in their order: teacher, baselines, and per method plain, SDD, stand and both."""
    found = [Row("Teacher", None)]
    for baseline in card["baselines"]:
        found.append(Row("Student" if baseline == catalog.VANILLA else baseline.upper(), baseline))
    for method in card["methods"]:
        for stand in sorted(card["stand"]):
            for scale in sorted(card["scales"], key=by_size):
                label = method.upper()
                if levels(scale) != (1,):
                    label += f" + SDD [{','.join(map(str, levels(scale)))}]"
                found.append(Row(label + (" + stand" if stand else ""), method, scale, stand))
    return found


def by_size(scale: int | str) -> tuple[int, int, tuple[int, ...]]:
    """Order of scales: by their finest level, then by how many they have, then by the levels themselves."""
    return max(levels(scale)), len(levels(scale)), levels(scale)


def collect(card: Card, evaluations: list[Evaluation], published: Published) -> list[Entry]:
    """What was measured and published for every row and pair that the matrix declares, whether or not it has run."""
    by_pair = {evaluation["pair"]: evaluation for evaluation in evaluations}
    return [entry for pair in card["pairs"] for entry in _of_pair(card, pair, by_pair.get(pair), published)]


def _of_pair(card: Card, pair: str, evaluation: Evaluation | None, published: Published) -> Iterator[Entry]:
    entries = [_entry(card, pair, row, evaluation, published) for row in rows(card)]
    gained = {entry.row: entry for method in card["methods"] for entry in _with_gains(entries, method)}
    compared = [gained.get(entry.row, entry) for entry in entries]
    adjusted = iter(significance.holm([entry.compared.p for entry in compared if entry.compared is not None]))
    for entry in compared:
        yield entry if entry.compared is None else replace(entry, adjusted=next(adjusted))


def _with_gains(entries: list[Entry], method: str) -> Iterator[Entry]:
    """The rows of a method that have all their seeds, each compared with the plain one; none without a plain one."""
    whole = [entry for entry in entries if entry.row.method == method and not entry.missing]
    plain = next((entry for entry in whole if entry.row.is_plain), None)
    if plain is not None:
        others = [entry for entry in whole if entry is not plain]
        found = significance.in_blocks([list(entry.values) for entry in (plain, *others)])
        for entry, compared in zip(others, found, strict=True):
            yield replace(entry, gain=mean(entry.values) - mean(plain.values), compared=compared)


def _entry(card: Card, pair: str, row: Row, evaluation: Evaluation | None, published: Published) -> Entry:
    figure = None  # of a part of a data set nothing is published
    if not card["subset"]:
        figure = figure_of(pair, row, published, optimizer=card["optimizer"], stand_recipe=card["stand_recipe"])
    cells = [] if evaluation is None else evaluation["cells"]
    if row.method is None:
        teacher = () if evaluation is None else (evaluation["teacher"]["top1"],)
        return Entry(pair, row, teacher, () if teacher else (card["seeds"][0],), figure)
    of_seed = {cell["seed"]: cell[card["accuracy"]] for cell in cells if row.holds(cell)}
    found = tuple(of_seed[seed] for seed in card["seeds"] if seed in of_seed)
    missing = tuple(seed for seed in card["seeds"] if seed not in of_seed)
    budget = _budget(card, row.method, [cell for cell in cells if row.holds(cell)])
    return Entry(pair, row, found, missing, figure, budget)


def _budget(card: Card, method: str, cells: list[dict[str, Any]]) -> tuple[str, ...]:
    epochs = sorted({cell["epochs"] for cell in cells} - {card["epochs"]})
    views = max((entry.views for entry in catalog.terms(method)), key=len, default=())
    of_views = [f"{' and '.join(views)} views of each image"] if len(views) > 1 else []
    return *(f"{count} epochs" for count in epochs), *of_views


def figure_of(pair: str, row: Row, published: Published, *, optimizer: str, stand_recipe: str) -> Figure | None:
    """What was published for a row.

    Args:
        pair: teacher-student.
        row: of the table.
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
