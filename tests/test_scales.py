"""Scale decoupling and standardisation: the properties that published code breaks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcore.methods import kd
from kdcore.scales import decouple, decoupling_weights, pyramid_logits
from kdcore.standardize import standardize

LEVELS = [(1,), (2,), (4,), (1, 2), (1, 4), (2, 4), (1, 2, 4)]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("size", [2, 4, 7, 8])
def test_regions_are_the_classifier_on_average_features(levels, size):
    classifier = nn.Linear(3, 5).double()
    final_map = torch.randn(2, 3, size, size, dtype=torch.float64)
    grid = nn.functional.adaptive_avg_pool2d(final_map, 4)
    expected = []
    for level in levels:
        side = 4 // level
        for row in range(level):
            for column in range(level):
                cell = grid[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                expected.append(classifier(cell.mean(dim=(2, 3))))
    torch.testing.assert_close(pyramid_logits(final_map, classifier, levels), torch.stack(expected, dim=1))


def test_region_zero_is_the_global_prediction():
    classifier, final_map = nn.Linear(3, 5), torch.randn(2, 3, 8, 8)
    logits = pyramid_logits(final_map, classifier, (1, 2, 4))
    torch.testing.assert_close(logits[:, 0], classifier(final_map.mean(dim=(2, 3))))


def test_weights_by_hand():
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    teacher = torch.tensor([[right, right, wrong], [wrong, right, wrong]])
    target = torch.tensor([0, 0])
    assert decoupling_weights(teacher, target).tolist() == [[1, 1, 2], [1, 2, 1]]
    loss = torch.tensor([[1.0, 10.0, 100.0], [1.0, 10.0, 100.0]])
    assert decouple(loss, teacher, target).item() == pytest.approx((1 + 10 + 200 + 1 + 20 + 100) / 6)
    assert decouple(loss, teacher, target, complementary_weight=1.0).item() == pytest.approx(37)


def test_weights_of_both_kinds_of_regions():
    """They split the sum in two parts: that of consistent and that of complementary regions."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(6, 21, 3, generator=generator, dtype=torch.float64)
    loss = torch.rand(6, 21, generator=generator, dtype=torch.float64)
    target = torch.randint(3, (6,), generator=generator)

    def total(complementary, consistent):
        weights = {"complementary_weight": complementary, "consistent_weight": consistent}
        return decouple(loss, teacher, target, **weights).item()

    right = teacher.argmax(-1) == target[:, None]
    agrees = right == right[:, :1]
    consistent, complementary = (loss[of].sum().item() / loss.numel() for of in (agrees, ~agrees))
    assert consistent > 0 < complementary
    assert total(2.0, 1.0) == pytest.approx(2 * complementary + consistent)
    assert total(2.0, 1.0) == decouple(loss, teacher, target).item()
    assert total(2.0, 0.0) == pytest.approx(total(2.0, 1.0) - total(0.0, 1.0)) == pytest.approx(2 * complementary)
    assert total(0.0, 1.0) == pytest.approx(consistent)
    assert total(1.0, 1.0) == pytest.approx(loss.mean().item())
    assert total(3.0, 3.0) == pytest.approx(3 * loss.mean().item())
    assert total(0.0, 0.0) == 0


def test_levels_without_the_whole_image_take_its_prediction_from_outside():
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    teacher, target = torch.tensor([[wrong, right]]), torch.tensor([0])
    weights = decoupling_weights(teacher, target, teacher_global=torch.tensor([right]))
    assert weights.tolist() == [[2, 1]]


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 8), regions=st.sampled_from([1, 5, 17, 21]), seed=st.integers(0, 999))
def test_permuting_the_batch_changes_nothing(batch, regions, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, regions, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(6, (batch,), generator=generator)

    def total(order):
        s, t = standardize(student[order]), standardize(teacher[order])
        return decouple(kd.loss(s, t, temperature=2.0), t, target[order])

    torch.testing.assert_close(total(torch.randperm(batch, generator=generator)), total(torch.arange(batch)))


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(0.1, 50), shift=st.floats(-50, 50), seed=st.integers(0, 999))
def test_standardised_loss_ignores_scale_and_shift_of_a_row(scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 10, generator=generator, dtype=torch.float64)
    before = kd.loss(standardize(student), standardize(teacher), temperature=2.0)
    after = kd.loss(standardize(scale * student + shift), standardize(teacher), temperature=2.0)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_standardised_rows_have_zero_mean_and_unit_deviation():
    z = standardize(5 + 3 * torch.randn(4, 7, 100, dtype=torch.float64))
    torch.testing.assert_close(z.mean(dim=-1), torch.zeros(4, 7, dtype=torch.float64))
    torch.testing.assert_close(z.std(dim=-1), torch.ones(4, 7, dtype=torch.float64), rtol=1e-6, atol=0)


def test_constant_row_becomes_zeros_with_a_finite_gradient():
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    z = standardize(logits)
    assert not z.any()
    assert torch.isfinite(torch.autograd.grad(z.square().sum() + z.sum(), logits)[0]).all()


def test_half_precision_is_standardised_in_single():
    assert standardize(torch.randn(2, 5, dtype=torch.bfloat16)).dtype == torch.float32
