"""What a difference between accuracies is worth, given the noise of seeds.

All tests are two-sided and assume differences that are normally distributed (Student 1908): with the 3 to 5 seeds of
published tables, nothing weaker can be tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy import stats

ALPHA = 0.05
"""Of all tests and intervals: the rate at which noise alone passes for a difference."""


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
    if len(differences) < 2 or stdev(differences) < 1e-9:
        return None
    found = stats.ttest_rel(first, second)
    low, high = found.confidence_interval(1 - ALPHA)
    return Comparison(mean(differences), float(high - low) / 2, float(found.pvalue), len(differences))


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


def noise(values: Sequence[float]) -> float | None:
    """How far from the mean of these runs one more run, with another seed, may lie: half the prediction interval.

    Args:
        values: accuracies in percent, one per seed.

    Returns:
        Percentage points; None for fewer than two seeds, or seeds that all ended equal.
    """
    n = len(values)
    if n < 2 or stdev(values) == 0:
        return None
    return float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * stdev(values) * (1 + 1 / n) ** 0.5
