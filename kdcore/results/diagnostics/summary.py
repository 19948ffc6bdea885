"""The diagnostics of a matrix by row and pair, means over seeds: what the page and the figures show of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from kdcore.results.diagnostics.stored import Diagnosis
from kdcore.results.entry import STUDENT, Entry
from kdcore.results.gains import reference
from kdcore.results.rows import Results

SURE = 0.9
"""From which confidence on a teacher is called sure, a bound of bins."""


@dataclass(frozen=True)
class Diagnosed:
    """What was found of the seeds of one row."""

    entry: Entry
    diagnosis: Diagnosis
    """That of the pair."""
    cells: list[dict[str, Any]]
    """Those of its seeds; for the teacher's row the teacher."""
    student: "Diagnosed | None" = None
    """The row of the student trained alone that it is compared with."""

    @property
    def is_teacher(self) -> bool:
        """Whether this is the teacher's row, which has nothing to compare with the teacher."""
        return self.entry.row.method is None

    def mean(self, key: str) -> float | None:
        """Return the mean over seeds of a number; None for the teacher where only students have it."""
        values = [cell[key] for cell in self.cells if key in cell]
        return fmean(values) if values else None

    @property
    def agreement(self) -> list[tuple[float, float, int]]:
        """The middle of each bin of the teacher's confidence that has images; how often student and teacher agree
        there, from 0 to 1; and how many images it has.
        """
        counts = self.diagnosis["confidence_images"]
        sums = np.sum([cell["agreement"] for cell in self.cells], axis=0) / len(self.cells)
        return [
            ((i + 0.5) / len(counts), float(agreed) / count, count)
            for i, (agreed, count) in enumerate(zip(sums, counts, strict=True))
            if count
        ]

    @property
    def sure_and_unsure(self) -> tuple[float | None, float | None]:
        """How often student and teacher agree, from 0 to 1, where the teacher's confidence is `SURE` or more, and where
        it is less; None where it has no such images.
        """
        shares: list[float | None] = []
        for is_sure in (True, False):
            bins = [(share, count) for at, share, count in self.agreement if (at > SURE) == is_sure]
            images = sum(count for _, count in bins)
            shares.append(sum(share * count for share, count in bins) / images if images else None)
        return shares[0], shares[1]

    @property
    def accuracies(self) -> np.ndarray:
        """(C,), the accuracy of each class in percent, mean over seeds; nan for a class without images."""
        right = np.mean([cell["class_right"] for cell in self.cells], axis=0)
        images = np.array(self.diagnosis["class_images"], dtype=float)
        return 100 * np.divide(right, images, out=np.full(len(images), np.nan), where=images > 0)

    @property
    def class_gains(self) -> list[float]:
        """How far each class lies above that of the student trained alone, percentage points, from the smallest to the
        largest; empty where there is no such student.
        """
        if self.student is None:
            return []
        gains = self.accuracies - self.student.accuracies
        return sorted(float(gain) for gain in gains[np.isfinite(gains)])

    @property
    def cka(self) -> np.ndarray:
        """(student's layers, teacher's layers), CKA, mean over seeds; nan where a layer tells no images apart."""
        return np.mean([np.array(cell["cka"], dtype=float) for cell in self.cells], axis=0)

    @property
    def cka_of_pooled(self) -> float | None:
        """CKA of the pooled vectors of student and teacher; None for the teacher, and where they tell nothing apart."""
        if self.is_teacher or self.cka.ndim < 2:
            return None
        value = float(self.cka[-1, -1])
        return value if isfinite(value) else None

    @property
    def cka_by_depth(self) -> list[float]:
        """CKA of each layer of the student with the teacher's layer at the same share of the depth."""
        found = self.cka
        if found.ndim < 2:
            return []
        own, others = found.shape
        nearest = np.rint(np.linspace(0, others - 1, own)).astype(int)
        return [float(found[i, j]) for i, j in enumerate(nearest)]

    @property
    def region_accuracies(self) -> dict[int, float]:
        """Level -> the share of its regions whose prediction is right, in percent."""
        return self._of_levels(lambda both, _, alone, __: both + alone)

    @property
    def complementary(self) -> dict[int, float]:
        """Level -> the share of its regions, in percent, where just one of the predictions for the region and for the
        whole image is right.
        """
        return self._of_levels(lambda _, whole, alone, __: whole + alone)

    def _of_levels(self, part: Callable[..., int]) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for cell in self.cells:
            for level, kinds in cell.get("regions", {}).items():
                found.setdefault(int(level), []).append(100 * part(*kinds) / sum(kinds))
        return {level: fmean(shares) for level, shares in sorted(found.items())}

    @property
    def first(self) -> dict[str, Any] | None:
        """The cell with a picture of features; None where there is no picture."""
        return next((cell for cell in self.cells if cell.get("picture")), None)


def diagnosed(results: Results, pair: str) -> list[Diagnosed]:
    """Return the rows of a pair that have diagnostics, the teacher's first; none where the pair was not diagnosed."""
    diagnosis = results.diagnoses.get(pair)
    if diagnosis is None:
        return []
    by_name = {cell["name"]: cell for cell in diagnosis["cells"]}
    entries = results.entries_of(pair)
    cells = {
        entry.row: [by_name[name] for name in results.cells_of(entry) if name in by_name]
        for entry in entries
        if entry.row.method is not None
    }
    alone = [entry.row for entry in entries if cells.get(entry.row)]
    found = []
    for entry in entries:
        if entry.row.method is None:
            found.append(Diagnosed(entry, diagnosis, [diagnosis["teacher"]]))
        elif cells[entry.row]:
            other = reference(entry.row, STUDENT, alone)
            student = None if other is None else _of_row(entries, cells[other], diagnosis, other)
            found.append(Diagnosed(entry, diagnosis, cells[entry.row], student))
    return found


def _of_row(entries: Sequence[Entry], cells: list[dict[str, Any]], diagnosis: Diagnosis, row: Any) -> Diagnosed:
    return Diagnosed(next(entry for entry in entries if entry.row == row), diagnosis, cells)


def numbers(results: Results) -> pd.DataFrame:
    """Return the diagnostics as numbers, means over seeds, one line per row and pair.

    Shares are percent: of images for agreement, of regions for those of the finest level. `cka` is that of the pooled
    vectors, `adapters` counts parameters, and gains of classes are percentage points over the student trained alone.
    """
    lines = []
    for one in (one for pair in results.card["pairs"] for one in diagnosed(results, pair)):
        (sure, unsure), gains = (None, None) if one.is_teacher else one.sure_and_unsure, one.class_gains
        finest = max(one.region_accuracies, default=None)
        lines.append(
            {
                "pair": one.entry.pair,
                "row": one.entry.row.label,
                "n": len(one.cells),
                "images": one.diagnosis["images"],
                **{key: one.mean(key) for key in ("correlation_mean", "correlation_max", "logit_mean")},
                "logit_deviation": one.mean("logit_deviation"),
                "agreement_sure": sure and 100 * sure,
                "agreement_unsure": unsure and 100 * unsure,
                "cka": one.cka_of_pooled,
                "smallest_class_gain": gains[0] if gains else None,
                "largest_class_gain": gains[-1] if gains else None,
                "level": finest,
                "complementary_regions": finest and one.complementary[finest],
                "right_regions": finest and one.region_accuracies[finest],
                "adapters": one.mean("adapters"),
            }
        )
    return pd.DataFrame(lines)
