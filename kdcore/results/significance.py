"""Tests and intervals for differences between accuracies, given the noise of seeds.

All tests are two-sided and assume normally distributed differences (Student 1908): with the 3 to 5 seeds of published
tables, no weaker assumption is of use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

import numpy as np
from scipy import stats

ALPHA = 0.05
"""The rate at which noise alone passes for a difference, in all tests and intervals."""

LEAST = 1e-9
"""Percentage points below which a deviation is rounding, not noise."""


@dataclass(frozen=True)
class Comparison:
    """The difference between two experiments with the same seeds."""

    difference: float
    """Mean over seeds, in percentage points."""
    margin: float
    """Half the width of the difference's confidence interval."""
    p: float
    """The p-value of the test."""
    n: int
    """Number of seeds."""


def in_blocks(rows: Sequence[Sequence[float]]) -> list[Comparison | None]:
    """Compare every row after the first with the first, paired over seeds, with the noise of all rows pooled.

    Seeds are the blocks of a randomised block design (Fisher 1935): the effects of rows and seeds are taken out, and
    the rest is noise, assumed to be equal in all rows. With R rows and n seeds that leaves (R - 1)(n - 1) degrees of
    freedom where a paired t-test has n - 1; with two rows it is the paired t-test.

    Args:
        rows: accuracies in percent, (R, n), for the same seeds in the same order.

    Returns:
        R - 1 comparisons; None where the seeds do not show their noise: there are fewer than two, or each of them adds
        the same to every row.
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
    """Adjust p-values for their number: if none of the differences is real, any is below ALPHA only at that rate.

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
    """Return half the prediction interval: how far the mean of other runs may lie from the mean of these by noise.

    Args:
        values: accuracies in percent, one per seed.
        runs: how many other runs there are.

    Returns:
        Percentage points; None for fewer than two seeds, or seeds with equal accuracies.
    """
    n = len(values)
    if is_noiseless(values):
        return None
    return float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * stdev(values) * (1 / runs + 1 / n) ** 0.5


def is_noiseless(values: Sequence[float]) -> bool:
    """Return whether these numbers, one per seed, do not show the noise of seeds: fewer than two, or all equal."""
    return len(values) < 2 or stdev(values) < LEAST
