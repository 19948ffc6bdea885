"""Measures of diagnostics: what they are of a network with itself, what leaves them alone, and cases by hand."""

import numpy as np
import pytest
import torch

from kdcore.results.diagnostics import measures, picture
from kdcore.results.diagnostics.measures import Gram, cka


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=5):
    return torch.linalg.qr(drawn(size, size, seed=seed)).Q


class TestCka:
    def test_of_a_layer_with_itself_is_1(self):
        layer = Gram.of(drawn(40, 3, 4, 4))
        assert cka(layer, layer) == pytest.approx(1)

    def test_rotations_scales_and_shifts_change_nothing(self):
        one, other = drawn(40, 12), drawn(40, 7, seed=1) + drawn(40, 12) @ drawn(12, 7, seed=2)
        plain = cka(Gram.of(one), Gram.of(other))
        assert 0.05 < plain < 0.95
        assert cka(Gram.of(one @ rotation(12)), Gram.of(other)) == pytest.approx(plain)
        assert cka(Gram.of(one), Gram.of(-3 * other + 100)) == pytest.approx(plain)
        assert cka(Gram.of(other), Gram.of(one)) == pytest.approx(plain)
        stretched = one * torch.linspace(0.1, 5, 12)
        assert cka(Gram.of(stretched), Gram.of(other)) != pytest.approx(plain, abs=0.01)

    def test_of_independent_features_is_about_0(self):
        """The biased estimate is near 1 for more dimensions than images."""
        values = [cka(Gram.of(drawn(30, 500, seed=i)), Gram.of(drawn(30, 500, seed=i + 50))) for i in range(8)]
        assert abs(np.mean(values)) < 0.1

    def test_is_the_unbiased_estimate_by_its_sum_over_images(self):
        """Against the mean of the kernel over all ordered choices of four different images (Song et al., 2012)."""
        one, other = drawn(6, 3), drawn(6, 2, seed=1)
        first, second = (one @ one.T).numpy(), (other @ other.T).numpy()
        total = np.mean([
            first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q])
            for i in range(6) for j in range(6) for q in range(6) for r in range(6) if len({i, j, q, r}) == 4
        ])  # fmt: skip
        assert Gram.of(one).shared(Gram.of(other)) / (6 * 3) == pytest.approx(total)

    def test_of_a_layer_that_tells_no_images_apart_is_none(self):
        assert cka(Gram.of(torch.ones(10, 4)), Gram.of(drawn(10, 4))) is None


class TestCorrelations:
    def test_difference_of_a_network_with_itself_is_0(self):
        logits = drawn(50, 8).float()
        assert measures.correlation_difference(logits, logits).abs().max() == 0

    def test_scales_and_shifts_of_a_class_change_nothing(self):
        student, teacher = drawn(50, 8), drawn(50, 8, seed=1)
        plain = measures.correlation_difference(student, teacher)
        moved = measures.correlation_difference(student * torch.linspace(1, 4, 8) + drawn(8), teacher)
        assert torch.allclose(plain, moved)

    def test_are_those_of_numpy(self):
        logits = drawn(50, 8)
        assert np.allclose(measures.correlations(logits).numpy(), np.corrcoef(logits.numpy(), rowvar=False))

    def test_of_a_constant_class_is_0(self):
        logits = drawn(50, 3)
        logits[:, 1] = 2.0
        found = measures.correlations(logits)
        assert found[1].tolist() == [0, 0, 0]
        assert found[0, 0] == pytest.approx(1)

    def test_largest_difference_by_hand(self):
        line = torch.tensor([0.0, 1.0, 2.0])
        student, teacher = torch.stack([line, line], dim=1), torch.stack([line, -line], dim=1)
        assert measures.correlation_difference(student, teacher)[0, 1] == pytest.approx(2)

    def test_blocks_keep_the_mean(self):
        square = drawn(32, 32).abs()
        blocks = measures.block_means(square, 16)
        assert blocks.shape == (16, 16)
        assert blocks.mean() == pytest.approx(float(square.mean()))
        assert torch.equal(measures.block_means(square[:5, :5], 16), square[:5, :5])


def test_statistics_of_logits_by_hand():
    mean, deviation = measures.logit_statistics(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]))
    assert mean.tolist() == [2, 4]
    assert deviation.tolist() == [1, 0]


def test_bins_of_confidence_by_hand():
    """The least of three classes is a third; a certain prediction is in the last bin."""
    probabilities = torch.tensor([[0.34, 0.33, 0.33], [0.55, 0.35, 0.1], [0.05, 0.9001, 0.0499], [0, 1.0, 0]])
    bins = measures.confidence_bins(probabilities.log())
    assert bins.tolist() == [3, 5, 9, 9]
    agrees = torch.tensor([True, False, True, True])
    assert measures.counted(bins, agrees, measures.BINS) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 2]


class TestRegions:
    def test_by_hand(self):
        whole = torch.tensor([True, False])
        region = torch.tensor([[True, True, True, False], [False, True, False, False]])
        assert measures.region_kinds(whole, region) == [3, 1, 1, 3]

    def test_kinds_sum_up_to_all_regions(self):
        generator = torch.Generator().manual_seed(0)
        whole = torch.rand(30, generator=generator) < 0.5
        region = torch.rand(30, 16, generator=generator) < 0.3
        assert sum(measures.region_kinds(whole, region)) == 30 * 16

    def test_a_level_of_the_whole_image_is_consistent(self):
        right = torch.tensor([True, False, True])
        assert measures.region_kinds(right, right[:, None]) == [2, 0, 0, 1]


class TestPicture:
    FEATURES = np.random.default_rng(0).normal(size=(60, 8)) + 8 * np.repeat(np.eye(3, 8), 20, axis=0)

    def test_has_the_same_bits_twice(self):
        assert picture.embed(self.FEATURES) == picture.embed(self.FEATURES)

    def test_lies_in_a_square_and_keeps_classes_together(self):
        points = np.array(picture.embed(self.FEATURES))
        assert points.shape == (60, 2)
        assert points.min() == 0
        assert points.max() == 1
        distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(60)
        labels = np.repeat(range(3), 20)
        assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95

    def test_shows_images_of_classes_that_are_spread_over_all(self):
        labels = np.tile(np.arange(100), 30)
        positions = picture.shown(labels, 100)
        assert list(dict.fromkeys(labels[positions].tolist())) == [0, 16, 33, 50, 66, 82, 99]
        assert len(positions) == 7 * picture.OF_EACH
        assert picture.shown(np.array([1, 0, 1]), 2).tolist() == [1, 0, 2]
