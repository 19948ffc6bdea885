"""The rows of the tables: experiments without their pair and seed, under the names that readers see."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kdcore import catalog
from kdcore.catalog import levels
from kdcore.matrix.cell import BASE, Cell
from kdcore.matrix.recipes import overridden
from kdcore.matrix.train_images import flat

Card = dict[str, Any]
SHORT = {"temperature": "T"}
"""What parameters are called in the names of rows, where that is not their own name."""
PRINTED = {"swap": "LA", "revision": "LR", "mlkd_one_view": "MLKD (one view)"}
"""What publications call methods that have another name here."""
LONGEST_CHANGE = 40
"""How many characters of changes a row's name holds; of more, it holds the variant's name instead."""
GROUPS = {
    "alone": "Trained alone",
    "feature": "Feature methods",
    "logit": "Logit methods",
    "sum": "Sums of methods",
}
"""The groups of rows in their order, and their titles."""
AMBIGUOUS = ("plain", "stand")
"""Names of variants that keys of rows (see `Row.key`) have another use for."""


def printed(method: str) -> str:
    """Return the name of a method or sum that readers see: "CRD+KD", "LA"."""
    return catalog.PLUS.join(PRINTED.get(name, name.upper()) for name in method.split(catalog.PLUS))


@dataclass(frozen=True)
class Row:
    """One row of the table: an experiment without its pair and seed."""

    method: str | None
    """None for the teacher's row."""
    scale: int | str | None = None
    stand: bool | None = None
    variant: str = BASE
    change: str = field(default="", compare=False)
    """What the variant changes, in short: "T=2"; empty for `BASE`."""

    @property
    def label(self) -> str:
        """The name that readers see: "KD + SDD [1,2] + stand, T=2"."""
        name = {None: "Teacher", catalog.VANILLA: "Student"}.get(self.method, printed(str(self.method)))
        regions = "" if self.levels in (None, [1]) else f" + SDD {self.m}"
        return f"{name}{regions}{' + stand' if self.stand else ''}{self.change and f', {self.change}'}"

    @property
    def group(self) -> str:
        """Which of `GROUPS` it is of; told without the catalog, for a method of an old table may be gone."""
        if self.method in (None, catalog.VANILLA):
            return "alone"
        if catalog.PLUS in str(self.method):
            return "sum"
        return "feature" if self.scale is None else "logit"

    @property
    def key(self) -> str:
        """A name that does not depend on the matrix: "1_2-stand-t2"; of baselines "plain", or the variant's name."""
        variant = f"variant-{self.variant}" if self.variant in AMBIGUOUS else self.variant
        if self.levels is None:
            return "plain" if self.variant == BASE else variant
        parts = ["_".join(map(str, self.levels)), *(["stand"] if self.stand else [])]
        return "-".join(parts if self.variant == BASE else [*parts, variant])

    @property
    def levels(self) -> list[int] | None:
        """Levels of the pyramid of regions (M); None for the teacher, baselines and feature methods."""
        return None if self.scale is None else list(levels(self.scale))

    @property
    def m(self) -> str:
        """The levels in brackets: "[1,2]"."""
        return f"[{','.join(map(str, self.levels or []))}]"

    @property
    def axes(self) -> tuple[int | str | None, bool | None]:
        """Its scale and stand."""
        return self.scale, self.stand

    @property
    def is_plain(self) -> bool:
        """Whether this is a logit method without regions and without standardisation."""
        return self.levels == [1] and not self.stand

    @property
    def base(self) -> "Row":
        """The same row of the variant that changes nothing."""
        return replace(self, variant=BASE, change="")

    def holds(self, cell: Mapping[str, Any]) -> bool:
        """Whether a cell of an evaluation is one of this row's seeds."""
        axes = (self.method, self.scale, self.stand, self.variant)
        return (cell["method"], cell.get("scale"), cell.get("stand"), cell["variant"]) == axes

    def cell(self, pair: str, seed: int) -> str:
        """Return the name of the row's cell of a pair and a seed; the teacher has none."""
        return Cell(pair, str(self.method), seed, self.scale, self.stand, variant=self.variant).name


def rows(card: Card) -> list[Row]:
    """Return the rows of the table in order: teacher, baselines, and per method plain, SDD, stand and both; by group.

    Directly behind a row are those of its variants that the matrix has a cell of.

    Args:
        card: that of stage tables, or one with its axes, `variants`, `recipes` and `excluded`.
    """
    plain = [Row(baseline) for baseline in card["baselines"]]
    for method in card["methods"]:
        for stand in sorted(card["stand"]):
            plain += [Row(method, scale, stand) for scale in sorted(card["scales"], key=by_size)]
    declared = {*card["recipes"], *card["excluded"]}
    in_groups = sorted(plain, key=lambda row: list(GROUPS).index(row.group))
    return [Row(None), *(row for base in in_groups for row in (base, *_variants(base, card, declared)))]


def recipe_of(card: Card, pair: str, row: Row) -> dict[str, Any]:
    """Return the recipe of a row's cells of a pair, key -> value and source; empty where none is trained."""
    names = (row.cell(pair, seed) for seed in card["seeds"])
    return next((card["recipes"][name] for name in names if name in card["recipes"]), {})


def by_size(scale: int | str) -> tuple[int, int, tuple[int, ...]]:
    """Sort key of a scale: its finest level, then how many levels it has, then the levels themselves."""
    return max(levels(scale)), len(levels(scale)), levels(scale)


def common_label(of: Iterable[Row]) -> str:
    """Name what rows of one method and variant have in common: "KD", "KD + stand", "KD, T=2"."""
    some = list(of)
    longest = max(some, key=lambda row: len(row.change))
    stand = all(row.stand for row in some)
    return Row(longest.method, stand=stand, variant=longest.variant, change=longest.change).label


def in_words(changes: Mapping[str, Any]) -> str:
    """Write changes of parameters and settings, those with short names first: "T=2, kd_weight=0.5"."""
    ordered = sorted(changes.items(), key=lambda change: change[0].rpartition(".")[2] not in SHORT)
    return ", ".join(f"{_short_key(key)}={_short_value(value)}" for key, value in ordered)


def _variants(base: Row, card: Card, declared: set[str]) -> Iterator[Row]:
    """Yield a row's variants that have a cell; where two change the same, both have the variants' names."""
    found = {}
    for name, variant in card["variants"].items():
        row = replace(base, variant=name)
        pairs = [pair for pair in card["pairs"] if any(row.cell(pair, seed) in declared for seed in card["seeds"])]
        if name != BASE and pairs:
            found[row] = _change(row, variant, pairs)
    count = Counter(found.values())
    for row, change in found.items():
        yield replace(row, change=change if count[change] == 1 else row.variant)


def _change(row: Row, variant: Card, pairs: list[str]) -> str:
    """Write what a variant changes in a row, if that is short and the same for all pairs; else the variant's name."""
    cells = [Cell(pair, str(row.method), 0, row.scale, row.stand) for pair in pairs]
    changed = [overridden(cell, variant["recipes"]) if variant["recipes"] else {} for cell in cells]
    texts = {in_words({**recipe, **flat(variant["train"])}) for recipe in changed}
    text = texts.pop()
    return text if text and not texts and len(text) <= LONGEST_CHANGE else row.variant


def _short_key(key: str) -> str:
    term, dot, name = key.rpartition(".")
    return f"{term}{dot}{SHORT.get(name, name)}"


def _short_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_short_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_short_value(part)}' for key, part in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)
