"""What a difference between accuracies is worth, given the noise of seeds.

All tests are two-sided and assume differences that are normally distributed (Student 1908): with the 3 to 5 seeds of
published tables, nothing weaker can be tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from scipy import stats

ALPHA = 0.05
"""Of all tests and intervals: the rate at which noise alone passes for a difference."""


LEAST = 1e-9
"""Percentage points below which a deviation is rounding, not noise."""


@dataclass(frozen=True)
class Comparison:
    """Two experiments that share their seeds."""

    difference: float
    """Mean over seeds of the first minus the second, in percentage points."""
    margin: float
    """Half the width of the difference's confidence interval."""
    p: float
    """Of the paired t-test."""
    n: int
    """Seeds."""


def paired(first: Sequence[float], second: Sequence[float]) -> Comparison | None:
    """The paired t-test over seeds.

    Args:
        first: accuracies in percent, one per seed.
        second: of the other experiment, in the order of the same seeds.

    Returns:
        None where seeds tell nothing of their noise: fewer than two, or the same difference for all of them.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if is_noiseless(differences):
        return None
    found = stats.ttest_rel(first, second)
    low, high = found.confidence_interval(1 - ALPHA)
    return Comparison(mean(differences), float(high - low) / 2, float(found.pvalue), len(differences))


def in_blocks(rows: Sequence[Sequence[float]]) -> list[Comparison | None]:
    """Every row after the first compared with the first, paired over seeds, with the noise of all rows pooled.

    Seeds are the blocks of a randomised block design (Fisher 1935): what a row and a seed add is taken out, and what
    remains is noise, taken to be equal in all rows. With R rows and n seeds that leaves (R - 1)(n - 1) degrees of
    freedom where a paired t-test has n - 1; with two rows it is the paired t-test.

    Args:
        rows: accuracies in percent, (R, n), of the same seeds in the same order.

    Returns:
        R - 1 comparisons; None where seeds tell nothing of their noise.
    """
    n = len(rows[0]) if len(rows) else 0
    if len(rows) < 2 or n < 2:
        return [None] * (len(rows) - 1)
    values = np.asarray(rows, dtype=float)
    freedom = (len(values) - 1) * (n - 1)
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    error = float((2 / n * (rest**2).sum() / freedom) ** 0.5)
    if error < LEAST:
        return [None] * (len(values) - 1)
    differences = [float(row.mean() - values[0].mean()) for row in values[1:]]
    half = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    return [Comparison(d, half, float(2 * stats.t.sf(abs(d) / error, freedom)), n) for d in differences]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for asking as many questions at once: below ALPHA, a true null is among them at that rate only.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def noise(values: Sequence[float], runs: int = 1) -> float | None:
    """How far from the mean of these runs the mean of others, with other seeds, may lie: half the prediction interval.

    Args:
        values: accuracies in percent, one per seed.
        runs: how many others.

    Returns:
        Percentage points; None for fewer than two seeds, or seeds that all ended equal.
    """
    n = len(values)
    if is_noiseless(values):
        return None
    return float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * stdev(values) * (1 / runs + 1 / n) ** 0.5


def is_noiseless(values: Sequence[float]) -> bool:
    """Whether these numbers, one per seed, tell nothing of the noise of seeds: fewer than two, or all equal."""
    return len(values) < 2 or stdev(values) < LEAST
