"""Tests and intervals: against scipy, and by simulation with known effects."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdcore.results import significance
from kdcore.results.significance import ALPHA
from tests import made_up

ACCURACY = st.floats(0, 100).map(lambda value: round(value, 4))
ACCURACIES = st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=10)


@given(ACCURACIES)
def test_two_rows_are_compared_by_the_paired_t_test(pairs):
    first, second = zip(*pairs, strict=True)
    (found,) = significance.in_blocks([second, first])
    differences = np.subtract(first, second)
    if found is None:
        assert np.std(differences) < 1e-8
        return
    one_sample = stats.ttest_1samp(differences, 0)
    assert found.difference == pytest.approx(differences.mean(), abs=1e-9)
    assert found.p == pytest.approx(one_sample.pvalue, rel=1e-6, abs=1e-12)
    half = stats.t.ppf(1 - ALPHA / 2, len(pairs) - 1) * differences.std(ddof=1) / len(pairs) ** 0.5
    assert found.margin == pytest.approx(half, rel=1e-6)


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([]) == []
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_none_and_bonferroni(values):
    for value, adjusted in zip(values, significance.holm(values), strict=True):
        assert value <= adjusted <= min(1.0, value * len(values)) + 1e-12


def test_noise_is_the_prediction_interval():
    assert significance.noise([70.0, 71.0, 72.0]) == pytest.approx(stats.t.ppf(0.975, 2) * (4 / 3) ** 0.5)
    assert significance.noise([70.0]) is None
    assert significance.noise([70.0, 70.0]) is None


@pytest.mark.parametrize("n", [2, 3, 5])
def test_one_more_seed_is_within_noise_as_often_as_stated(n):
    random, trials = np.random.default_rng(0), 1000
    runs = random.normal(70, 0.4, (trials, n + 1))
    outside = sum(abs(run[n] - run[:n].mean()) > significance.noise(run[:n].tolist()) for run in runs)
    assert outside / trials == pytest.approx(ALPHA, abs=4 * (ALPHA * (1 - ALPHA) / trials) ** 0.5)


def rate_of_bold(gain, trials=150):
    """In how many matrices of one pair any gain is called supported, and in how many each gain is."""
    found = [
        [entry.is_significant for entry in made_up.matrix(gain=gain, pairs=made_up.PAIRS[:1], seed=trial).entries]
        for trial in range(trials)
    ]
    return np.mean([any(flags) for flags in found]), np.mean(found)


def test_noise_alone_is_bold_at_no_more_than_the_stated_rate():
    """Over all rows of a pair together: at most ALPHA, and half of it, for losses are never bold."""
    any_bold, _ = rate_of_bold(gain=0.0)
    assert any_bold <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / 150) ** 0.5


def test_a_gain_far_above_noise_is_bold():
    """10 of a pair's 14 rows are gains over plain."""
    assert rate_of_bold(gain=20.0, trials=10) == (1, pytest.approx(10 / 14))


class TestBlocks:
    def test_noise_is_the_residual_of_the_analysis_of_variance(self):
        """Against least squares with an effect per row and per seed."""
        random = np.random.default_rng(1)
        rows, n = random.normal(70, 1, (4, 3)), 3
        design = np.zeros((12, 6))
        for i in range(4):
            for j in range(n):
                design[i * n + j, i] = 1
                design[i * n + j, 4:] = np.eye(3)[j, 1:]
        effects, residual, *_ = np.linalg.lstsq(design, rows.ravel(), rcond=None)
        error = (2 / n * residual[0] / 6) ** 0.5
        for k, found in enumerate(significance.in_blocks(rows), start=1):
            assert found.difference == pytest.approx(effects[k] - effects[0])
            assert found.p == pytest.approx(2 * stats.t.sf(abs(found.difference) / error, 6))
            assert found.margin == pytest.approx(stats.t.ppf(1 - ALPHA / 2, 6) * error)

    @pytest.mark.parametrize(
        "rows", [[], [[70.0, 71.0]], [[70.0], [71.0]], [[70.0, 71.0], [71.0, 72.0]], [[70.0] * 3] * 2]
    )
    def test_seeds_that_tell_nothing(self, rows):
        assert significance.in_blocks(rows) == [None] * max(len(rows) - 1, 0)


def test_a_gain_of_three_deviations_is_found_with_three_seeds():
    """With gains of 1 point at a deviation of 0.3, more than four in five of a pair's 10 gains are bold."""
    _, share = rate_of_bold(gain=1.0, trials=30)
    assert share * 14 / 10 > 0.8
