"""Read what stage robustness measured, and sum it up per network and per row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, mean, stdev
from typing import Any

from pydantic import model_validator

from kdcore import catalog
from kdcore.matrix.cell import BASE
from kdcore.results.entry import Entry
from kdcore.system import validated
from kdcore.system.validated import Stored

FILE = "errors.json"
SEVERITIES = 5
Measured = dict[str, Any]
"""What `kdcore.results.robustness.measure.measure_pair` returns."""


class _Network(Stored):
    clean: float
    error: dict[str, list[float]]


class _Cell(_Network):
    name: str
    method: str
    variant: str
    seed: int
    weights_sha256: str


class _Measured(Stored):
    """The keys of errors.json that tables and the report read."""

    pair: str
    set: str
    test_images: int
    averaged: list[str]
    more: list[str]
    teacher: _Network
    cells: list[_Cell]

    @model_validator(mode="after")
    def _whole(self) -> "_Measured":
        names = {*self.averaged, *self.more}
        for one in (self.teacher, *self.cells):
            if set(one.error) != names or any(len(errors) != SEVERITIES for errors in one.error.values()):
                raise ValueError("a network lacks a corruption or a severity")
        return self


def read(path: Path) -> Measured:
    """Read what was measured of a pair on a set of corrupted images.

    Args:
        path: the folder, see `kdcore.matrix.robustness_section.folder`.

    Raises:
        UserError: it is missing or damaged.
    """
    return validated.read_checked(path / FILE, _Measured)


@dataclass(frozen=True)
class Score:
    """One network on a set of corrupted images; errors are in percent, 100 minus top-1."""

    clean: float
    """The error on the test images as they are."""
    by_corruption: dict[str, float]
    """Corruption -> error, the mean over severities; with those that are not averaged."""
    by_severity: list[float]
    """The error at each severity, the mean over the averaged corruptions."""
    mean: float
    """The mean error over the averaged corruptions and all severities; it is not normalised."""
    mce: float | None = None
    """The mean corruption error: per corruption the error as a percentage of that of the pair's student trained alone,
    which has 100; then the mean over the averaged corruptions (arXiv:1903.12261, where AlexNet is the reference). None
    where that student is not in the matrix, or makes no error.
    """
    relative_mce: float | None = None
    """The same of how far errors rise above the clean one; None also where the student's do not rise."""

    @property
    def rise(self) -> float:
        """How far the mean error lies above the clean one, in percentage points."""
        return self.mean - self.clean


@dataclass(frozen=True)
class Reference:
    """The errors of the pair's student trained alone, means over its seeds: that which others are divided by."""

    clean: float
    by_corruption: dict[str, float]


def reference(measured: Measured, seeds: Sequence[int]) -> Reference | None:
    """Average the errors of the student trained alone without a variant; None where one of these seeds is not there."""
    alone = [one for one in measured["cells"] if (one["method"], one["variant"]) == (catalog.VANILLA, BASE)]
    alone = [one for one in alone if one["seed"] in seeds]
    if not seeds or len(alone) < len(seeds):
        return None
    by_corruption = {name: fmean(fmean(one["error"][name]) for one in alone) for name in alone[0]["error"]}
    return Reference(fmean(one["clean"] for one in alone), by_corruption)


def score(network: dict[str, Any], averaged: Sequence[str], alone: Reference | None) -> Score:
    """Sum up what was measured of a network.

    Args:
        network: its `clean` and `error`.
        averaged: the corruptions of the averages.
        alone: the reference of the mean corruption error.
    """
    by_corruption = {name: fmean(errors) for name, errors in network["error"].items()}
    mce = relative = None
    if alone is not None:
        mce = _normalised({name: (by_corruption[name], alone.by_corruption[name]) for name in averaged})
        relative = _normalised(
            {
                name: (by_corruption[name] - network["clean"], alone.by_corruption[name] - alone.clean)
                for name in averaged
            }
        )
    return Score(
        network["clean"],
        by_corruption,
        [fmean(network["error"][name][severity] for name in averaged) for severity in range(SEVERITIES)],
        fmean(by_corruption[name] for name in averaged),
        mce,
        relative,
    )


def _normalised(errors: dict[str, tuple[float, float]]) -> float | None:
    """Average 100 times the first over the second; None where a second one is not above 0."""
    if any(other <= 0 for _, other in errors.values()):
        return None
    return fmean(100 * own / other for own, other in errors.values())


@dataclass(frozen=True)
class Line:
    """One row of a pair: what its seeds have, or why they have nothing."""

    entry: Entry
    scores: list[Score]
    """One per seed, in the order of the matrix; one for the teacher."""
    lacks: str
    """ "missing" or "excluded"; empty where all seeds are there."""

    def mean_of(self, values: Sequence[float | None]) -> tuple[float, float | None] | None:
        """Return mean and sample standard deviation over seeds, None for one seed; None where a value is not known."""
        known = [value for value in values if value is not None]
        if self.lacks or not known or len(known) < len(values):
            return None
        return mean(known), stdev(known) if len(known) > 1 else None
