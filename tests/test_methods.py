"""Losses: closed forms, extremes and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore import methods
from kdcore.methods import at, dkd, kd, nkd, rld
from kdcore.networks.contract import Output

LOGIT = {
    "kd": {"temperature": 4.0},
    "dkd": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
    "nkd": {"gamma": 1.5, "temperature": 1.0},
    "rld": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "alpha_temperature": 1.0},
}


def loss(name, student, teacher, target):
    return methods.get(name).loss(student, teacher, target, **LOGIT[name])


def test_every_logit_method_is_tested_here():
    assert set(LOGIT) == set(methods.names()["logit"])


def test_unknown_method_is_refused():
    with pytest.raises(KeyError, match="known: at, dkd, kd, nkd, rld"):
        methods.get("kdd")


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kd_of_two_classes(temperature):
    p = 1 / (1 + math.exp(-2 / temperature))  # teacher (2, 0), student uniform
    expected = temperature**2 * (p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p))
    got = kd.loss(torch.zeros(3, 2), torch.tensor([[2.0, 0.0]] * 3), temperature=temperature)
    torch.testing.assert_close(got, torch.full((3,), expected))


def test_dkd_with_equal_weights_of_kd():
    """KD = TCKD + (1 - p_t of the target) * NCKD (DKD paper, equation 7)."""
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    tckd, nckd = dkd.terms(student, teacher, target, temperature=3.0)
    p_target = (teacher / 3.0).softmax(dim=1).gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(tckd + (1 - p_target) * nckd, kd.loss(student, teacher, temperature=3.0))


def test_nkd_of_two_classes():
    """With one non-target class its softmax is 1: only the target term is left."""
    student, teacher = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    expected = -(1 / (1 + math.exp(-0.5))) * math.log(1 / (1 + math.exp(-2.0)))
    got = nkd.loss(student, teacher, torch.tensor([0]), gamma=1.5, temperature=2.0)
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_nkd_of_all_classes_is_cross_entropy():
    student, teacher = torch.randn(2, 4, 5)
    _, of_others = nkd.terms(student, teacher, torch.arange(4), gamma=1.0, temperature=1.0, nontarget="all_classes")
    expected = -(teacher.softmax(1) * student.log_softmax(1)).sum(1)
    torch.testing.assert_close(of_others, expected)


def test_rld_masks_the_target_and_what_the_teacher_ranks_above():
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    target = torch.tensor([1])
    student = torch.tensor([[9.0, -9.0, 1.0, 0.0]])  # equal to the teacher on the two classes left
    torch.testing.assert_close(rld.masked_correlation(student, teacher, target, temperature=2.0), torch.zeros(1))


def test_rld_of_a_fully_masked_sample_is_zero():
    student = torch.randn(1, 4, requires_grad=True)
    teacher, target = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([3])
    value = rld.masked_correlation(student, teacher, target, temperature=2.0)
    assert value.item() == 0
    assert not torch.autograd.grad(value.sum(), student)[0].any()


@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_student_equal_to_teacher_has_no_loss_and_no_gradient(name):
    teacher = torch.randn(8, 10, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    value = loss(name, student, teacher, torch.arange(8))
    torch.testing.assert_close(value, torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(torch.autograd.grad(value.sum(), student)[0], torch.zeros_like(teacher))


@pytest.mark.parametrize("name", LOGIT)
def test_a_gradient_step_lowers_the_loss(name):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 16, 10, dtype=torch.float64)
    student.requires_grad_()
    target = torch.randint(10, (16,))
    value = loss(name, student, teacher, target).mean()
    gradient = torch.autograd.grad(value, student)[0]
    assert loss(name, student - 0.01 * gradient, teacher, target).mean() < value


@pytest.mark.parametrize("name", LOGIT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [100.0, 1000.0])
def test_extreme_logits_stay_finite(name, dtype, size):
    rows = [[size, -size, 0.0, 1.0], [-size, size, size, -size], [size] * 4, [0.0] * 4]
    student = torch.tensor(rows, dtype=dtype, requires_grad=True)
    for teacher in (student.detach(), student.detach().flip(0), -student.detach()):
        value = loss(name, student, teacher, torch.tensor([0, 1, 2, 3]))
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), student)[0]).all()


@pytest.mark.parametrize("name", LOGIT)
def test_half_precision_is_computed_in_single(name):
    torch.manual_seed(0)
    student, teacher = (5 * torch.randn(2, 16, 10)).bfloat16()
    target = torch.randint(10, (16,))
    got = loss(name, student, teacher, target)
    torch.testing.assert_close(
        got.double(), loss(name, student.double(), teacher.double(), target), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", LOGIT)
@settings(deadline=None, max_examples=25)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    classes=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_any_leading_shape_gives_the_same_as_rows(name, shape, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, shape, generator=generator)
    together = loss(name, student, teacher, target)
    assert together.shape == target.shape
    rows = loss(name, student.reshape(-1, classes), teacher.reshape(-1, classes), target.reshape(-1))
    torch.testing.assert_close(together.reshape(-1), rows)


class TestAttentionTransfer:
    def test_equal_maps_up_to_scale_have_no_loss(self):
        maps = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
        torch.testing.assert_close(at.loss([5 * m for m in maps], maps, p=2), torch.tensor(0.0), atol=1e-10, rtol=0)

    def test_opposite_attention(self):
        """Two disjoint unit maps over 2 pixels differ by 1 in each: mean square 1."""
        student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        torch.testing.assert_close(at.loss([student], [teacher], p=2), torch.tensor(1.0))

    def test_unequal_stage_counts_match_from_the_deep_end(self):
        def output(count):
            maps = tuple(torch.rand(2, 3, 8 - i, 8 - i) for i in range(count))
            return Output(torch.zeros(2, 5), maps, maps, torch.zeros(2, 3), maps[-1])

        student, teacher = output(3), output(5)
        expected = at.loss(student.stages[1:], teacher.stages[-2:], p=2)
        torch.testing.assert_close(at.distill(student, teacher, p=2), expected)
