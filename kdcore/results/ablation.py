"""Rows of the matrix that differ in one number alone: ablations over a parameter or a setting of training."""

from dataclasses import dataclass
from typing import Any

from kdcore.matrix.cell import BASE, Cell
from kdcore.matrix.recipes import overridden
from kdcore.matrix.selection import hashable
from kdcore.matrix.train_images import as_numbers
from kdcore.results import gains
from kdcore.results.entry import Entry, Gain
from kdcore.results.row import Card, Row, in_words, recipe_of
from kdcore.results.rows import Results

TRAIN = "train"
"""Begins the keys of settings of training, as the method's name begins those of its parameters."""
PER_CLASS = "per_class"
Values = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """Rows of one pair that differ in one number alone."""

    pair: str
    row: Row
    """One of the rows, without its variant."""
    differing: Values
    """What tells it from other lines of its row, and from the row without variants: {"complementary_weight": 4}."""
    entries: dict[float, Entry]
    """By the number, ascending."""
    excluded: frozenset[float]
    """Numbers whose rows params.yaml leaves out."""

    @property
    def change(self) -> str:
        """What tells it from others, in words."""
        return in_words(self.differing)

    @property
    def label(self) -> str:
        """The row with the change: "KD + SDD [1,2], complementary_weight=4"."""
        return ", ".join(filter(None, (self.row.label, self.change)))

    def change_at(self, value: float) -> Gain | None:
        """Return how far the row of a number lies above the line's row of `BASE`, without a test; None for that row
        itself, and in a line without it.
        """
        entry = self.entries[value]
        base = next((other for other in self.entries.values() if other.row.variant == BASE), None)
        return None if base is None or entry is base else gains.untested(entry, base)


@dataclass(frozen=True)
class Ablation:
    """All lines over one number."""

    key: str
    """The parameter behind its method, or the setting behind `TRAIN`: "kd.temperature", "train.lr"."""
    lines: list[Line]

    @property
    def name(self) -> str:
        """The parameter or setting without what stands before it: "temperature"."""
        return self.key.partition(".")[2]

    @property
    def ticks(self) -> list[float]:
        """All numbers, ascending."""
        return sorted({value for line in self.lines for value in line.entries})

    @property
    def points(self) -> set[tuple[str, Row]]:
        """Pair and row of all entries."""
        return {(line.pair, entry.row) for line in self.lines for entry in line.entries.values()}


def ablations(results: Results) -> list[Ablation]:
    """Find every number that variants vary, in the order of the matrix; a grid over two numbers is shown over one.

    Of two ablations of which one has all points of the other, as the two directions of a grid, the larger is kept, or
    the first.
    """
    of_students = [entry for entry in results.entries if entry.row.method is not None]
    points = [(entry, _values(results, entry)) for entry in of_students]
    keys = dict.fromkeys(key for entry, values in points if entry.declared for key in values)
    found = [Ablation(key, lines) for key in keys if (lines := _lines(key, points))]
    kept: list[Ablation] = []
    for ablation in sorted(found, key=lambda one: -len(one.points)):
        if not any(ablation.points <= other.points for other in kept):
            kept.append(ablation)
    return [ablation for ablation in found if ablation in kept]


def _values(results: Results, entry: Entry) -> Values:
    """Return a row's recipe, and those settings of its training that some variant changes, as far as they are known."""
    return {
        **{f"{entry.row.method}.{key}": value for key, value in _recipe(results.card, entry).items()},
        **{f"{TRAIN}.{key}": value for key, value in _training(results, entry).items()},
    }


def _recipe(card: Card, entry: Entry) -> Values:
    """Return a row's recipe; that of a row that is left out follows from the recipe of `BASE`, if that is trained."""
    row, changes = entry.row, card["variants"][entry.row.variant]["recipes"]
    own = row if entry.declared else row.base
    recipe = {key: value for key, (value, _) in recipe_of(card, entry.pair, own).items()}
    if own == row or not changes:
        return recipe
    return {**recipe, **overridden(Cell(entry.pair, str(row.method), 0, row.scale, row.stand), changes)}


def _training(results: Results, entry: Entry) -> Values:
    """Return the settings in which all seeds of a row agree; all images of each class as their number, where it is
    the same for all classes, and regimes of training data as numbers, absent ones too.
    """
    card, own = results.card, entry.row if entry.declared else entry.row.base
    names = [own.cell(entry.pair, seed) for seed in entry.declared or entry.excluded]
    of_seeds = [{**card.get("settings", {}), **card.get("settings_of", {}).get(name, {})} for name in names]
    agreed = {key: value for key, value in of_seeds[0].items() if all(one[key] == value for one in of_seeds)}
    settings = {**agreed, **card["variants"][entry.row.variant]["train"]}
    evaluation = results.evaluation_of(entry.pair)
    if evaluation is not None and settings.get(PER_CLASS, 0) is None:
        images, over = divmod(evaluation["train_images"], evaluation["classes"])
        settings[PER_CLASS] = None if over else images
    return as_numbers(settings)


def _lines(key: str, points: list[tuple[Entry, Values]]) -> list[Line]:
    """Return the lines over a number that have at least two points, those of a row by their other values."""
    groups: dict[tuple[Any, ...], dict[float, Entry]] = {}
    excluded: dict[tuple[Any, ...], set[float]] = {}
    others: dict[tuple[Any, ...], Values] = {}
    for entry, values in points:
        value = values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            other = {name: values[name] for name in values if name != key}
            group = entry.pair, entry.row.base, frozenset((name, hashable(of)) for name, of in other.items())
            others[group] = other
            if entry.declared:
                groups.setdefault(group, {}).setdefault(value, entry)
            else:
                excluded.setdefault(group, set()).add(value)
    kept = {group: dict(sorted(entries.items())) for group, entries in groups.items() if len(entries) > 1}
    base = {(e.pair, e.row): values for e, values in points if e.row.variant == BASE and e.declared}
    lines: dict[tuple[str, Row], list[Line]] = {}
    for group, entries in kept.items():
        pair, row, _ = group
        beside = [others[other] for other in kept if other[:2] == group[:2]] + [base.get((pair, row), others[group])]
        differing = {
            name.partition(".")[2]: value
            for name, value in others[group].items()
            if any(name not in other or other[name] != value for other in beside)
        }
        left_out = frozenset(excluded.get(group, ()))
        lines.setdefault((pair, row), []).append(Line(pair, row, differing, entries, left_out))
    return [line for of_row in lines.values() for line in sorted(of_row, key=_by_values)]


def _by_values(line: Line) -> list[tuple[str, float, str]]:
    values = line.differing.items()
    return [(key, value, "") if isinstance(value, int | float) else (key, 0, str(value)) for key, value in values]
