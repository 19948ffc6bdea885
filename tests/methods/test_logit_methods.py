"""Losses of logits: closed forms, extremes and properties."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore import methods
from kdcore.methods import clkd, ctkd, dkd, kd, mlkd, mlkd_one_view, nkd, rld, skd
from kdcore.methods._confidence import unsure
from kdcore.networks.contract import Output
from kdcore.standardize import standardize
from tests.methods import inputs

SAMPLES = {
    "kd": {"temperature": 4.0},
    "dkd": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
    "nkd": {"gamma": 1.5, "temperature": 1.0},
    "rld": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "alpha_temperature": 1.0},
    "ctkd": {"temperature": torch.tensor(3.0)},
    "ttm": {"exponent": 0.2},
    "wttm": {"exponent": 0.2},
    "swap": {"temperature": 4.0},
    "rc": {"temperature": 4.0, "rc_weight": 0.1},
    "rc-centred": {"temperature": 4.0, "rc_weight": 0.1, "variant": "centred"},
    "ofa": {"gamma": 1.5, "temperature": 1.0},
    "wkd_l": {"temperature": 2.0, "gamma": 5.0, "sinkhorn_reg": 0.1, "sinkhorn_iterations": 10},
    "crld": {"temperature": 4.0, "tau_weak": 0.2, "tau_strong": 0.1, "within_weight": 2.0, "cross_weight": 0.5},
}
BATCH = {
    "clkd": {"mu": 0.5, "nu": 0.4, "beta": 2.0},
    "skd": {"temperature": 4.0, "tikhonov": 0.1},
    "mlkd": {"temperature": 4.0},
    "mlkd-as_written": {"temperature": 4.0, "variant": "as_written"},
    "mlkd_one_view": {"temperature": 4.0},
    "mlkd_one_view-as_written": {"temperature": 4.0, "variant": "as_written"},
    "dist": {"beta": 1.0, "gamma": 1.0, "temperature": 4.0},
    "revision": {"lambda1": 4.0, "lambda2": 1.0, "eta": 0.8},
    "luminet": {"alpha": 33.0, "temperature": 4.0},
}
NOT_ZERO = {"nkd", "ofa", "wkd_l", "revision", "ttm", "wttm", "rc", "rc-centred", "dist"}
"""Losses that are not 0 at the teacher's logits: they are cross-entropies or have other targets; DIST adds 1e-8 to a
product of lengths.
"""
ALL = {**SAMPLES, **BATCH}


def loss(name, student, teacher, target):
    """Of a method with two views, the second is the same as the first."""
    method = methods.get(name.split("-")[0])
    two_views = "VIEWS" in vars(method)
    views = [student, student, teacher, teacher] if two_views else [student, teacher]
    others = [class_cost(student.shape[-1])] if name == "wkd_l" else []
    return method.loss(*views, target, *others, **ALL[name])


def class_cost(classes):
    """A cost for WKD: the distance of the classes' numbers, as a share of the largest."""
    numbers = torch.arange(classes)
    return (numbers[:, None] - numbers).abs() / classes


def test_every_logit_method_is_tested_here():
    assert {name.split("-")[0] for name in ALL} == set(methods.names()["logit"])


def test_methods_are_attributes_of_their_package(python):
    assert python("import kdcore.methods; print(kdcore.methods.kd.KIND)") == "logit\n"
    with pytest.raises(AttributeError, match="no attribute 'kdd'"):
        methods.kdd  # noqa: B018


def test_unknown_method_is_refused():
    with pytest.raises(KeyError, match="unknown method 'kdd'; known: at, catkd, cc"):
        methods.get("kdd")


def two_classes(temperature):
    """T^2 KL of a teacher with logits (2, 0) to a uniform student, by hand."""
    p = 1 / (1 + math.exp(-2 / temperature))
    return temperature**2 * (p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p))


UNIFORM, SURE = torch.zeros(3, 2), torch.tensor([[2.0, 0.0]] * 3)
FIRST = torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_kd_of_two_classes(temperature):
    got = kd.loss(UNIFORM, SURE, temperature=temperature)
    torch.testing.assert_close(got, torch.full((3,), two_classes(temperature)))


def test_dkd_of_two_classes_is_the_binary_divergence():
    """The one other class has probability 1 among the others, so NCKD is 0."""
    got = dkd.loss(UNIFORM, SURE, FIRST, alpha=3.0, beta=8.0, temperature=4.0)
    torch.testing.assert_close(got, torch.full((3,), 3 * two_classes(4.0)))


def test_rld_of_two_classes_is_the_binary_divergence():
    """Where the teacher is right: the largest probability is the target's, and one class is left for MCD."""
    got = rld.loss(UNIFORM, SURE, FIRST, alpha=3.0, beta=8.0, temperature=4.0, alpha_temperature=2.0)
    torch.testing.assert_close(got, torch.full((3,), 3 * two_classes(2.0)))


def test_rld_compares_the_targets_probability_with_the_teachers_largest():
    """Where the teacher is wrong, too: its largest is the first class's, the target is the second."""
    got = rld.sample_confidence(UNIFORM, SURE, FIRST + 1, temperature=2.0)
    torch.testing.assert_close(got, torch.full((3,), two_classes(2.0)))


def test_ctkd_of_two_classes():
    got = ctkd.loss(UNIFORM, SURE, temperature=torch.tensor([1.0, 2.0, 4.0]))
    torch.testing.assert_close(got, torch.tensor([two_classes(t) for t in (1.0, 2.0, 4.0)]))


def test_nkd_has_its_least_non_target_term_at_the_teachers_predictions():
    """There it is the entropy of the teacher's softmax over the other classes."""
    teacher = torch.randn(4, 5, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    _, of_others = nkd.terms(student, teacher, torch.zeros(4, dtype=torch.long), gamma=1.5, temperature=2.0)
    others = (teacher[:, 1:] / 2).softmax(dim=1)
    torch.testing.assert_close(of_others, -1.5 * 4 * (others * others.log()).sum(dim=1))
    gradient = torch.autograd.grad(of_others.sum(), student)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


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


def test_clkd_of_two_samples_of_two_classes():
    """Rows and columns of the identity are unit vectors; of its mirror image they differ by 1 in every entry."""
    student, teacher = torch.eye(2), torch.eye(2).flip(0)
    by_instance, by_class, by_correlation = clkd.terms(student, teacher)
    torch.testing.assert_close(by_instance, torch.tensor(1.0))
    torch.testing.assert_close(by_class, torch.tensor(1.0))
    torch.testing.assert_close(by_correlation, torch.tensor(0.0))
    torch.testing.assert_close(clkd.loss(student, teacher, mu=0.5, nu=9.0, beta=2.0), torch.tensor(1.5))


def test_clkd_correlation_by_its_definition():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    matrices = [(x - x.mean(dim=0)).T @ (x - x.mean(dim=0)) / 4 for x in (student, teacher)]
    expected = (matrices[0] - matrices[1]).norm() / 25
    torch.testing.assert_close(clkd.terms(student, teacher)[2], expected)


def test_skd_of_opposite_samples():
    """Two samples that the teacher sees alike and the student opposite: D has rows (0, -2/C) and (-2/C, 0)."""
    student, teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double(), torch.tensor([[1.0, 0.0], [1.0, 0.0]]).double()
    rows = torch.tensor([[0.0, -1.0], [-1.0, 0.0]]).double()
    covariance = torch.tensor([[0.5, -0.5], [-0.5, 0.5]]).double() + 0.1 * torch.eye(2)
    expected = (rows @ covariance.inverse() * rows).sum(dim=1).sqrt().mean()
    torch.testing.assert_close(skd.mahalanobis(student, teacher, tikhonov=0.1), expected)


def test_skd_masks_act_as_their_means():
    student, teacher = torch.randn(2, 9, 5, dtype=torch.float64)
    divergence, distance = skd.terms(student, teacher, **BATCH["skd"])
    got = skd.loss(student, teacher, **BATCH["skd"], kd_weight=3.0)
    torch.testing.assert_close(got, 3 * (divergence * 5 / 9 + distance * 3 / 5))


def test_unsure_of_half_the_samples_and_classes():
    teacher = torch.tensor([[9.0, 0, 0], [1, 0, 0], [5, 0, 0], [0, 2, 0]])
    samples, classes = unsure(teacher)
    assert samples.tolist() == [False, True, False, True]
    assert classes.tolist() == [False, True, True]


def test_mlkd_of_one_temperature_by_its_definition():
    """KD at five temperatures, once per view, where every sample is as sure as every other."""
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64)
    teacher = teacher[:1].expand(4, 3)
    found = mlkd.terms(student, 2 * student, teacher, teacher, temperature=4.0, variant="as_written")
    temperatures = (4.0, *mlkd.FIXED_TEMPERATURES)
    weak = sum(kd.loss(student, teacher, temperature=t).mean() for t in temperatures)
    strong = sum(kd.loss(2 * student, teacher, temperature=t).mean() for t in temperatures)
    between_samples = sum(
        ((student / t).softmax(1) @ (student / t).softmax(1).T - (teacher / t).softmax(1) @ (teacher / t).softmax(1).T)
        .square()
        .sum()
        / 4
        for t in temperatures
    )
    torch.testing.assert_close(found.kd_weak, weak)
    torch.testing.assert_close(found.kd_strong, strong)
    torch.testing.assert_close(found.bc, between_samples)


def test_mlkd_as_published_takes_the_weak_view_at_two_and_six():
    student, strong, teacher = torch.randn(3, 4, 3, dtype=torch.float64)
    found = mlkd.terms(student, strong, teacher, teacher, temperature=2.0)
    expected = sum(kd.loss(strong, teacher, temperature=t).mean() for t in (2.0, 3.0, 5.0))
    expected += sum(kd.loss(student, teacher, temperature=t).mean() for t in (2.0, 6.0))
    torch.testing.assert_close(found.kd_strong, expected)


def test_mlkd_of_one_view_on_two_classes_by_hand():
    """Both images are classified alike, so each is as unsure as the other, and the sums over classes are not: of the
    two classes, the teacher is unsure of the second. Predictions are (s, 1 - s) and (t, 1 - t) at each temperature.
    """
    student, teacher = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([[3.0, 0.0]] * 2)
    expected = {"as_published": 0.0, "as_written": 0.0}
    for temperature in (4.0, 3.0, 2.0):
        s, t = (1 / (1 + math.exp(-logit / temperature)) for logit in (1.0, 3.0))
        divergence = temperature**2 * (t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s)))
        first, second, mixed = (
            (2 * (a - b)) ** 2 for a, b in ((s**2, t**2), ((1 - s) ** 2, (1 - t) ** 2), (s * (1 - s), t * (1 - t)))
        )
        between_images = 4 * ((s**2 + (1 - s) ** 2) - (t**2 + (1 - t) ** 2)) ** 2 / 2
        for variant, unsure_classes in (
            ("as_published", (first + second + 2 * mixed) / 2),
            ("as_written", second + mixed),
        ):
            expected[variant] += divergence + unsure_classes / 2 + between_images
    for variant, value in expected.items():
        found = mlkd_one_view.loss(student, teacher, temperature=4.0, variant=variant, kd_weight=3.0)
        torch.testing.assert_close(found, torch.tensor(3 * value))


@pytest.mark.parametrize("variant", ["as_published", "as_written"])
def test_mlkd_of_one_view_is_mlkd_of_the_same_image_twice(variant, monkeypatch):
    """Less the term of the strong view, which is then KD at every temperature, if both have the same temperatures."""
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    options = {"temperature": 4.0, "variant": variant}
    monkeypatch.setattr(mlkd_one_view, "FIXED_TEMPERATURES", mlkd.FIXED_TEMPERATURES)
    strong = sum(kd.loss(student, teacher, temperature=t).mean() for t in (4.0, *mlkd.FIXED_TEMPERATURES))
    two = mlkd.loss(student, student, teacher, teacher, **options)
    torch.testing.assert_close(mlkd_one_view.loss(student, teacher, **options), two - strong)


def test_mlkd_standardises_the_divergences_alone():
    views = torch.randn(4, 6, 5, dtype=torch.float64).unbind()
    plain = mlkd.terms(*views, temperature=4.0)
    standardised = mlkd.terms(*views, temperature=4.0, standardize=True)
    by_hand = mlkd.terms(*(standardize(view) for view in views), temperature=4.0)
    assert standardised.cc == plain.cc
    assert standardised.bc == plain.bc
    shares = [unsure(teacher)[0].double().mean() for teacher in (views[2], standardize(views[2]))]
    torch.testing.assert_close(standardised.kd_weak / shares[0], by_hand.kd_weak / shares[1])


def setting(classes=5):
    maps = (torch.zeros(1, 3, 4, 4),) * 4
    output = Output(torch.zeros(1, classes), maps, maps, torch.zeros(1, 3), maps[-1])
    return inputs.setting(output, output)


def ctkd_adapter(variant):
    torch.manual_seed(0)
    return ctkd.Adapter(setting(), t_start=1.0, t_range=20.0, curriculum=10, variant=variant)


def test_ctkd_starts_at_the_sigmoid_of_one():
    temperature = ctkd_adapter("global").temperature(torch.zeros(2, 5), torch.zeros(2, 5), 0.0)
    torch.testing.assert_close(temperature, torch.tensor(1 + 20 / (1 + math.exp(-1))))


@pytest.mark.parametrize(("epoch", "factor"), [(0, 0.0), (5, -0.5), (10, -1.0), (240, -1.0)])
def test_ctkd_reverses_the_gradient_of_its_temperature_along_half_a_cosine(epoch, factor):
    assert ctkd.reversal(epoch, 10) == pytest.approx(factor)
    adapter = ctkd_adapter("global")
    student, teacher = torch.randn(2, 8, 5)
    adapter(student, teacher, None, prepared=inputs.prepared(adapter, epoch)).mean().backward()
    theta = torch.ones((), requires_grad=True)
    ctkd.loss(student, teacher, temperature=1 + 20 * theta.sigmoid()).mean().backward()
    torch.testing.assert_close(adapter.theta.grad, factor * theta.grad)


def test_ctkd_of_instances_gives_each_sample_and_region_its_temperature_and_the_student_no_gradient():
    adapter = ctkd_adapter("instance")
    student, teacher = torch.randn(2, 8, 3, 5)
    student.requires_grad_()
    temperature = adapter.temperature(student, teacher, -0.5)
    assert temperature.shape == (8, 3)
    assert temperature.unique().numel() > 1
    assert torch.autograd.grad(temperature.sum(), student, allow_unused=True, retain_graph=True) == (None,)
    temperature.sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_ZERO])
def test_student_equal_to_a_teacher_that_is_right_has_no_loss_and_no_gradient(name):
    teacher = torch.randn(8, 10, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    value = loss(name, student, teacher, teacher.argmax(dim=1))
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(torch.autograd.grad(value.sum(), student)[0], torch.zeros_like(teacher))


@pytest.mark.parametrize("name", ALL)
def test_a_gradient_step_lowers_the_loss(name):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 16, 10, dtype=torch.float64)
    student.requires_grad_()
    target = torch.randint(10, (16,))
    value = loss(name, student, teacher, target).mean()
    gradient = torch.autograd.grad(value, student)[0]
    assert loss(name, student - 0.01 * gradient, teacher, target).mean() < value


def extremes(size):
    """Batches of logits: large, small and equal rows; a class that is masked in every sample; a single sample."""
    rows = torch.tensor([[size, -size, 0.0, 1.0], [-size, size, size, -size], [size] * 4, [0.0] * 4])
    masked = torch.randn(4, 4)
    masked[:, 2] = -size
    return [rows, rows.flip(0), -rows, torch.zeros(4, 4), torch.full((4, 4), size), masked, rows[:1], rows[3:]]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [100.0, 1000.0])
def test_extreme_logits_stay_finite(name, dtype, size):
    batches = [batch.to(dtype) for batch in extremes(size)]
    for student, teacher in itertools.product(batches, batches):
        if len(student) != len(teacher):
            continue
        own = student.clone().requires_grad_()
        target = torch.arange(len(student))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            value = loss(name, own, teacher, target)
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), own)[0]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("stand", [False, True])
def test_a_constant_row_gets_no_huge_gradient(name, stand):
    """Normalising a zero vector, or standardising a constant one, the usual way gives it gradients of 1e7 to 1e17."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 8, 10)
    student[0] = 0.0
    own = student.requires_grad_()
    views = (standardize(own), standardize(teacher)) if stand else (own, teacher)
    gradient = torch.autograd.grad(loss(name, *views, torch.arange(8)).sum(), own)[0]
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_computed_in_single(name):
    torch.manual_seed(0)
    student, teacher = (5 * torch.randn(2, 16, 10)).bfloat16()
    target = torch.randint(10, (16,))
    with torch.autocast("cpu", torch.bfloat16):
        got = loss(name, student, teacher, target)
    exact = loss(name, student.double(), teacher.double(), target)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=25)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    classes=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_any_leading_shape_gives_the_same_as_rows_or_as_batches(name, shape, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, shape, generator=generator)
    together = loss(name, student, teacher, target)
    kept = 1 if name in SAMPLES else 2
    leading = student.shape[: student.ndim - kept]
    assert together.shape == leading
    parts = zip(*(x.flatten(0, len(leading) - 1) if leading else x[None] for x in (student, teacher)), strict=True)
    targets = target.reshape(-1, *target.shape[len(leading) :])
    apart = [loss(name, own, other, of) for (own, other), of in zip(parts, targets, strict=True)]
    torch.testing.assert_close(together.reshape(-1), torch.stack(apart))
