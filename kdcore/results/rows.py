"""The results of a matrix by row and pair, beside what was published: what tables, figures and the page show."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from kdcore import catalog
from kdcore.matrix import train_images
from kdcore.matrix.cell import BASE
from kdcore.matrix.recipes import OWN
from kdcore.matrix.train_card import is_measured
from kdcore.results.diagnostics.stored import Diagnosis
from kdcore.results.entry import Entry
from kdcore.results.gains import with_gains
from kdcore.results.published import Figure, Published
from kdcore.results.row import Card, Row, recipe_of, rows
from kdcore.system import validated
from kdcore.system.validated import Provenance, Stored
from kdcore.training.timings import Timing

METRICS, CURVES = "metrics.json", "curves.csv"
"""The files that stage evaluate writes for a pair."""
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
    variant: str
    seed: int
    top1: float
    top5: float
    nll: float
    ece: float
    agreement: float
    top1_best: float
    val_top1: float | None = None
    top1_ema: float | None = None
    per_class: int | None = None
    share: float | None = None
    long_tail: float | None = None
    label_noise: str | None = None
    images: int | None = None
    grouped_by: str | None = None
    head_top1: float | None = None
    medium_top1: float | None = None
    tail_top1: float | None = None
    evaluate_every: int | None = None
    epochs: int
    weights_sha256: str
    reliability: _Bins | None = None
    collapsed: str = ""
    cost: _Cost | None = None


class _Evaluation(Stored):
    """The keys of metrics.json that tables, figures and the report read."""

    pair: str
    train_images: int
    classes: int
    teacher: _Teacher
    student: _Cost
    cells: list[_Cell]


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
    """Pair by pair, the rows in their order; a pair has none for a variant that it has no cells of."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """Training times by the names of cells. Stage tables has none: its outputs must be the same on every run."""
    robustness: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Set of corrupted images -> pair -> what was measured (see `kdcore.results.robustness`)."""
    transfer: dict[tuple[str, str], "Results"] = field(default_factory=dict)
    """Target and protocol -> the results of linear probes (see `kdcore.results.probed`)."""
    diagnoses: dict[str, Diagnosis] = field(default_factory=dict)
    """Per pair that was diagnosed, what its students have of their teacher, and what they cost."""

    @classmethod
    def of(
        cls,
        card: Card,
        evaluations: list[Evaluation],
        histories: dict[str, pd.DataFrame],
        published: Published,
        timings: dict[str, Timing] | None = None,
        *,
        robustness: dict[str, dict[str, dict[str, Any]]] | None = None,
        diagnoses: dict[str, Diagnosis] | None = None,
    ) -> "Results":
        """Put results together, with the entries that follow from them."""
        return cls(
            card,
            evaluations,
            histories,
            published,
            collect(card, evaluations, published),
            timings or {},
            robustness=robustness or {},
            diagnoses=diagnoses or {},
        )

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
        names = set(self.cells_of(entry))
        return [cell for cell in evaluation["cells"] if cell["name"] in names]

    def own_costs(self, pair: str) -> list[tuple[list[Row], dict[str, int], int]]:
        """List the rows of a pair whose evaluated students do not cost what the pair's student does, because their
        method gives them another end: such rows of one method, variant and cost, the cost, and how many cells have it.
        """
        rows_of: dict[tuple[Any, ...], list[Row]] = {}
        for entry in self.entries_of(pair):
            for cell in self.measured(entry):
                if "cost" in cell:
                    of_one = entry.row.method, entry.row.variant, tuple(cell["cost"].items())
                    rows_of.setdefault(of_one, []).append(entry.row)
        return [(list(dict.fromkeys(some)), dict(cost), len(some)) for (_, _, cost), some in rows_of.items()]

    def cells_of(self, entry: Entry) -> list[str]:
        """Name the cells of a row that are trained, one per seed; none for the teacher's row."""
        return [] if entry.row.method is None else [entry.row.cell(entry.pair, seed) for seed in entry.declared]


def read_evaluation(folder: Path) -> Evaluation:
    """Read what stage evaluate measured of a pair.

    Raises:
        UserError: it is missing or damaged.
    """
    return validated.read_checked(folder / METRICS, _Evaluation)


def read_curves(folder: Path, evaluation: Evaluation) -> pd.DataFrame:
    """Read the histories of a pair's cells, for `Results.histories`.

    Raises:
        UserError: they are missing or damaged, or a cell's epochs are not all there, or not all that were measured.
    """
    file = folder / CURVES
    curves = validated.read_table(file, ("epoch", "train_top1"))
    expected = {cell["name"]: cell["epochs"] for cell in evaluation["cells"]}
    if "cell" not in curves or curves["cell"].value_counts().to_dict() != expected:
        raise validated.damaged(file, f"its cells and epochs are not those of {METRICS}")
    every = {cell["name"]: cell.get("evaluate_every") for cell in evaluation["cells"]}
    measured = [
        is_measured(int(epoch), epochs=expected[cell], every=every[cell])
        for cell, epoch in zip(curves["cell"], curves["epoch"], strict=True)
    ]
    validated.check_finite(file, curves[measured], ["test_top1"])
    return curves


def collect(card: Card, evaluations: list[Evaluation], published: Published) -> list[Entry]:
    """Return what was measured and published for every row and pair that the matrix declares, finished or not,
    excluded or not.
    """
    by_pair, declared = {evaluation["pair"]: evaluation for evaluation in evaluations}, rows(card)
    excluded = set(card["excluded"])
    retrained = {name for name, variant in card["variants"].items() if variant["train"]}
    found = []
    for pair in card["pairs"]:
        entries = [_entry(card, pair, row, by_pair.get(pair), published) for row in declared]
        left_out = [tuple(s for s in card["seeds"] if entry.row.cell(pair, s) in excluded) for entry in entries]
        entries = [replace(entry, excluded=seeds) for entry, seeds in zip(entries, left_out, strict=True)]
        shown = [entry for entry in entries if entry.declared or entry.excluded]
        found += with_gains(shown, retrained, _copies(card, pair, declared))
    return found


def _copies(card: Card, pair: str, declared: list[Row]) -> dict[Row, Row]:
    """Return the rows that a pair has under another variant, because their cells would be the same: row -> that one."""
    points = {replace(row.base, variant=name) for row in declared if row.method for name in card["variants"]}
    by_name = {row.cell(pair, seed): row for row in points for seed in card["seeds"]}
    copies = card.get("copies", {})
    return {by_name[name]: by_name[other] for name, other in copies.items() if name in by_name}


def reasons(meta: dict[str, Any]) -> list[str]:
    """Return why changes of code were accepted without training a cell or teacher again, each reason once."""
    return list(dict.fromkeys(" ".join(accepted["reason"].split()) for accepted in meta.get("accepted", ())))


def several_views(method: str) -> str:
    """Return "weak and strong views of each image" for a method that trains on more than one, else nothing."""
    views = max((entry.views for entry in catalog.terms(method)), key=len, default=())
    return f"{' and '.join(views)} views of each image" if len(views) > 1 else ""


def _entry(card: Card, pair: str, row: Row, evaluation: Evaluation | None, published: Published) -> Entry:
    figure = None if card["subset"] else _figure(card, pair, row, published)  # nothing is published about a part
    if row.method is None:
        teacher = () if evaluation is None else (evaluation["teacher"]["top1"],)
        seed = tuple(card["seeds"][:1])
        return Entry(pair, row, teacher, seed, () if teacher else seed, figure=figure)
    cells = [] if evaluation is None else evaluation["cells"]
    declared = tuple(seed for seed in card["seeds"] if row.cell(pair, seed) in card["recipes"])
    held = {cell["seed"]: cell for cell in cells if row.holds(cell) and cell["seed"] in declared}
    accuracies = tuple(held[seed][card["accuracy"]] for seed in declared if seed in held)
    missing = tuple(seed for seed in declared if seed not in held)
    other_epochs = sorted({cell["epochs"] for cell in held.values()} - {card["epochs"]})
    used, said = ({_part(one.get("per_class"), evaluation) for one in some} for some in (held.values(), [card]))
    images = (f"{count} training images of each class" if count else "all training images" for count in used - said)
    regime = train_images.in_words(card)
    others = sorted({train_images.in_words(one) for one in held.values()} - {regime})
    data = (other or f"without {regime}" for other in others)
    budget = (*(f"{count} epochs" for count in other_epochs), *sorted(images), *data, several_views(row.method))
    return Entry(pair, row, accuracies, declared, missing, figure=figure, budget=tuple(filter(None, budget)))


def _part(per_class: int | None, evaluation: Evaluation | None) -> int | None:
    """Return how many training images of each class are used; None for all of them, however that is written."""
    if per_class is None or evaluation is None:
        return per_class
    return None if per_class * evaluation["classes"] == evaluation["train_images"] else per_class


def _figure(card: Card, pair: str, row: Row, published: Published) -> Figure | None:
    values = changed_values(card, pair, row)
    return figure_of(
        pair, row, published, optimizer=card["optimizer"], stand_recipe=card["stand_recipe"], values=values
    )


def changed_values(card: Card, pair: str, row: Row) -> dict[str, Any]:
    """Return the values of a row's recipe that params.yaml changes, by `methods_config` or by the row's variant; empty
    where a variant changes the training too.
    """
    if row.variant != BASE and card["variants"][row.variant]["train"]:
        return {}
    return {key: value for key, (value, source) in recipe_of(card, pair, row).items() if source.startswith(OWN)}


def figure_of(
    pair: str,
    row: Row,
    published: Published,
    *,
    optimizer: str,
    stand_recipe: str,
    values: Mapping[str, Any] = MappingProxyType({}),
) -> Figure | None:
    """Find what was published for a row; None where nothing was.

    Args:
        pair: teacher-student.
        row: the row of the table.
        published: the figures of the data set.
        optimizer: "sgd" or "dot".
        stand_recipe: "paper", or "matched", which no publication has.
        values: the values by which its recipe differs from the listed one. A variant without any has no figure.
    """
    teacher, student = pair.split("-")
    if row.method is None:
        return published.find(None, teacher, catalog.VANILLA)
    if row.variant != BASE and not values:
        return None
    if row.stand and stand_recipe == "matched":
        return None  # publications change temperature and weight too
    if row.method == catalog.VANILLA:
        return published.find(None, student, row.method, values=values)
    return published.find(teacher, student, row.method, row.levels, row.stand, optimizer=optimizer, values=values)
