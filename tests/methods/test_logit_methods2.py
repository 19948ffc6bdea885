"""Losses of logits, second wave: closed forms, extremes and properties of each."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdcore.methods import crld, dist, kd, luminet, ofa, rc, revision, swap, ttm, wttm
from kdcore.standardize import standardize
from tests.methods.test_logit_methods import FIRST, SURE, UNIFORM, two_classes

P = 1 / (1 + math.exp(-2.0))
"""The probability that logits (2, 0) give to the first class."""


def gradient(value, of):
    return torch.autograd.grad(value.sum(), of)[0]


def test_dist_of_two_samples_of_two_classes():
    """Two numbers correlate with 1 or -1: the samples with 1 and -1, both classes over the batch with -1."""
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double()
    teacher = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).double()
    got = dist.loss(student, teacher, beta=3.0, gamma=5.0, temperature=2.0)
    torch.testing.assert_close(got, torch.tensor(4 * (3 * 1 + 5 * 2)).double(), rtol=1e-5, atol=0)


def test_dist_asks_for_nothing_but_a_linear_relation():
    """Probabilities mixed with equal ones correlate fully with what they were."""
    teacher = torch.randn(6, 5, dtype=torch.float64)
    student = (0.3 * teacher.softmax(dim=1) + 0.7 / 5).log()
    inter, intra = dist.terms(student, teacher, temperature=1.0)
    torch.testing.assert_close(torch.stack([inter, intra]), torch.zeros(2).double(), rtol=0, atol=1e-5)


def test_dist_of_equal_logits_is_nothing_but_what_its_constant_leaves():
    teacher = torch.randn(8, 10, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    value = dist.loss(student, teacher, beta=1.0, gamma=1.0, temperature=1.0)
    assert 0 < value < 1e-5
    assert gradient(value, student).abs().max() < 1e-5


def test_dist_by_its_definition():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    own, other = (student / 2).softmax(dim=1), (teacher / 2).softmax(dim=1)
    by_row = torch.stack([torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(own, other, strict=True)])
    by_column = torch.stack(
        [torch.corrcoef(torch.stack(columns))[0, 1] for columns in zip(own.T, other.T, strict=True)]
    )
    inter, intra = dist.terms(student, teacher, temperature=2.0)
    torch.testing.assert_close(inter, 4 * (1 - by_row.mean()), rtol=1e-5, atol=0)
    torch.testing.assert_close(intra, 4 * (1 - by_column.mean()), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dist_of_a_uniform_student_has_no_gradient(dtype):
    student = torch.linspace(-9, 9, 16, dtype=dtype)[:, None].repeat(1, 100).requires_grad_()
    value = dist.loss(student, torch.randn(16, 100, dtype=dtype), beta=1.0, gamma=2.0, temperature=4.0)
    torch.testing.assert_close(value, torch.tensor(3 * 16.0, dtype=dtype))
    assert not gradient(value, student).any()


def test_dist_of_a_class_that_is_constant_up_to_rounding_has_no_huge_gradient():
    """Each sample has the other classes in another order, so that the first one's probability is rounded otherwise."""
    torch.manual_seed(0)
    row = torch.randn(100)
    student = torch.stack([torch.cat([row[:1], row[1:][torch.randperm(99)]]) for _ in range(64)]).requires_grad_()
    assert student.softmax(dim=1)[:, 0].unique().numel() > 1
    value = dist.loss(student, 3 * torch.randn(64, 100), beta=1.0, gamma=1.0, temperature=1.0)
    assert gradient(value, student).abs().max() < 1


def test_dist_of_one_sample_has_no_relation_within_classes():
    student, teacher = torch.randn(2, 1, 10, dtype=torch.float64)
    student.requires_grad_()
    _, intra = dist.terms(student, teacher, temperature=4.0)
    assert intra == 16
    assert not gradient(intra, student).any()


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1.0])
def test_ttm_and_wttm_of_two_classes(exponent):
    """The exponent is a temperature of the teacher's alone."""
    divergence = two_classes(1 / exponent) * exponent**2
    torch.testing.assert_close(ttm.loss(UNIFORM, SURE, exponent=exponent), torch.full((3,), divergence))
    weight = P**exponent + (1 - P) ** exponent
    torch.testing.assert_close(wttm.power_sum(SURE, exponent=exponent), torch.full((3,), weight))
    torch.testing.assert_close(wttm.loss(UNIFORM, SURE, exponent=exponent), torch.full((3,), weight * divergence))


def test_ttm_and_wttm_with_exponent_one_are_kd():
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = kd.loss(student, teacher, temperature=1.0)
    torch.testing.assert_close(ttm.loss(student, teacher, exponent=1.0), expected)
    torch.testing.assert_close(wttm.loss(student, teacher, exponent=1.0), expected)


def test_ttm_has_its_least_value_at_the_transformed_teacher():
    teacher = torch.randn(4, 5, dtype=torch.float64)
    student = (0.3 * teacher + 7).requires_grad_()
    value = ttm.loss(student, teacher, exponent=0.3)
    torch.testing.assert_close(value, torch.zeros(4).double())
    torch.testing.assert_close(gradient(value, student), torch.zeros(4, 5).double())


def test_wttm_weighs_uniform_predictions_most():
    teacher = torch.cat([torch.zeros(1, 10), torch.randn(5, 10), torch.tensor([[900.0] + [0.0] * 9])]).double()
    weights = wttm.power_sum(teacher, exponent=0.2)
    torch.testing.assert_close(weights[[0, -1]], torch.tensor([10**0.8, 1.0]).double())
    assert (weights[1:-1] < weights[0]).all()
    assert (weights[1:-1] > 1).all()


def test_probabilities_that_underflow_keep_their_powers():
    """exp(-200) is 0 in single precision; its hundredth power is exp(-2), and so are the transformed teacher's odds."""
    teacher = torch.tensor([[0.0, -200.0]])
    assert teacher.softmax(dim=1)[0, 1] == 0
    torch.testing.assert_close(wttm.power_sum(teacher, exponent=0.01), torch.tensor([1 + math.exp(-2)]))
    torch.testing.assert_close(ttm.loss(UNIFORM[:1], teacher, exponent=0.01), torch.tensor([two_classes(1.0)]))


@pytest.mark.parametrize(
    ("target", "expected"), [(2, [1.0, 3.0, 3.0, 0.0]), (1, [3.0, 3.0, 1.0, 0.0]), (0, [3.0, 3.0, 1.0, 0.0])]
)
def test_swap_exchanges_the_first_largest_with_the_target(target, expected):
    teacher = torch.tensor([[3.0, 3.0, 1.0, 0.0]])
    assert swap.swapped(teacher, torch.tensor([target])).tolist() == [expected]
    assert teacher.tolist() == [[3.0, 3.0, 1.0, 0.0]]


def test_swap_of_two_classes():
    """With the target second, the teacher (2, 0) becomes (0, 2)."""
    student = torch.tensor([[0.0, 2.0]] * 3)
    torch.testing.assert_close(swap.loss(student, SURE, FIRST + 1, temperature=4.0), torch.zeros(3))
    torch.testing.assert_close(swap.loss(UNIFORM, SURE, FIRST, temperature=4.0), torch.full((3,), two_classes(4.0)))


def test_swap_is_kd_where_the_teacher_is_right():
    student, teacher = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    got = swap.loss(student, teacher, teacher.argmax(dim=-1), temperature=4.0)
    assert torch.equal(got, kd.loss(student, teacher, temperature=4.0))


def test_revision_of_a_right_and_a_wrong_sample():
    student, teacher = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    parts = revision.terms(student, teacher, FIRST[:2], eta=0.8)
    share = 0.8 / (P - (1 - P) + 1)
    of_target = share * (1 - P) + 1 - share
    expected = math.log(2), 2.0, (of_target - 0.5) ** 2
    torch.testing.assert_close(torch.stack(parts), torch.tensor(expected))
    loss = revision.loss(student, teacher, FIRST[:2], lambda1=3.0, lambda2=5.0, eta=0.8)
    torch.testing.assert_close(loss, torch.tensor(expected[0] + 3 * expected[1] + 5 * expected[2]))


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.99])
def test_revised_probabilities_have_the_target_first(eta):
    teacher, target = 5 * torch.randn(64, 10), torch.randint(10, (64,))
    q = revision.revised(teacher, target, eta=eta)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(64))
    assert torch.equal(q.argmax(dim=1), target)
    assert (q >= 0).all()


@pytest.mark.parametrize(("right", "empty"), [(True, ["mse_wrong"]), (False, ["right_ce", "mse_right"])])
def test_revision_without_right_or_without_wrong_samples(right, empty):
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    student.requires_grad_()
    target = teacher.argmax(dim=1) if right else teacher.argmin(dim=1)
    for name, term in revision.terms(student, teacher, target, eta=0.8)._asdict().items():
        assert (term == 0) == (name in empty)
        assert gradient(revision.terms(student, teacher, target, eta=0.8)._asdict()[name], student).any() == (
            name not in empty
        )


def test_revision_means_run_over_their_samples_alone():
    """More samples of the one kind leave the other kind's term as it is."""
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    target = torch.where(torch.tensor([True, True, False, False, False]), teacher.argmax(dim=1), teacher.argmin(dim=1))
    whole = revision.terms(student, teacher, target, eta=0.8)
    right = revision.terms(student[:2], teacher[:2], target[:2], eta=0.8)
    wrong = revision.terms(student[2:], teacher[2:], target[2:], eta=0.8)
    torch.testing.assert_close(torch.stack(whole), torch.stack([*right[:2], wrong[2]]))
    torch.testing.assert_close(right.mse_right, (student - teacher)[:2].square().mean())
    torch.testing.assert_close(right.right_ce, F.cross_entropy(student[:2], target[:2]))


@pytest.mark.parametrize(("variant", "rise"), [("centred", 1.0), ("as_published", 2.0)])
def test_rc_of_two_classes(variant, rise):
    """The student's own logits (0, 2) with the first raised: by 2 - 1, or by 2."""
    student = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    r = 1 / (1 + math.exp(2 - rise))
    expected = r * math.log(r / (1 - P)) + (1 - r) * math.log((1 - r) / P)
    divergence, correction = rc.terms(student, student, FIRST[:1], temperature=1.0, variant=variant)
    torch.testing.assert_close(correction, torch.tensor([expected]).double())
    torch.testing.assert_close(divergence, torch.zeros(1).double())
    got = rc.loss(student, student, FIRST[:1], temperature=1.0, rc_weight=3.0, variant=variant)
    torch.testing.assert_close(got, torch.tensor([3 * expected]).double())


def test_rc_pulls_towards_the_raised_prediction_and_does_not_move_it():
    student, target = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.arange(4)
    _, correction = rc.terms(student, student.detach(), target, temperature=2.0, variant="centred")
    of_raised = (rc.raised(student, target, variant="centred") / 2).softmax(dim=1)
    torch.testing.assert_close(gradient(correction, student), 2 * ((student / 2).softmax(dim=1) - of_raised).detach())


@pytest.mark.parametrize(("variant", "invariant"), [("centred", True), ("as_published", False)])
@pytest.mark.parametrize("shift", [-5.0, 5.0, 100.0])
def test_rc_of_shifted_logits(variant, invariant, shift):
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    target = torch.arange(4)
    values = [
        rc.loss(own, teacher, target, temperature=2.0, rc_weight=1.0, variant=variant)
        for own in (student, student + shift)
    ]
    assert torch.allclose(*values) == invariant


def test_rc_never_lowers_the_target_as_the_published_form_does():
    student, target = torch.randn(16, 5).sub(10), torch.arange(16) % 5
    changes = {
        variant: rc.raised(student, target, variant=variant) - student for variant in ("centred", "as_published")
    }
    of_target = {variant: change.gather(1, target[:, None]) for variant, change in changes.items()}
    assert (of_target["centred"] > 0).all()
    assert (of_target["as_published"] < 0).all()
    assert all((change != 0).sum() == 16 for change in changes.values())


def test_rc_of_standardised_logits_is_the_published_form():
    student, teacher = standardize(torch.randn(2, 8, 10, dtype=torch.float64))
    ours, published = (
        rc.loss(student, teacher, torch.arange(8), temperature=2.0, rc_weight=1.0, **option)
        for option in ({"variant": "centred"}, {})
    )
    torch.testing.assert_close(ours, published)


def test_ofa_of_two_classes():
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    log_first, log_second = -math.log(1 + math.e), -math.log(1 + math.exp(-1))
    expected = -((1 + P) ** 1.5 - 1) * log_first - (1 - P) ** 1.5 * log_second
    got = ofa.loss(student, teacher, torch.tensor([0]), gamma=1.5, temperature=1.0)
    torch.testing.assert_close(got, torch.tensor([expected]))


def test_ofa_with_gamma_one_is_cross_entropy_with_the_teacher():
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = F.cross_entropy(student / 2, (teacher / 2).softmax(dim=1), reduction="none")
    torch.testing.assert_close(ofa.loss(student, teacher, torch.arange(4), gamma=1.0, temperature=2.0), expected)


def test_ofa_has_its_least_value_at_its_weights():
    teacher, target = torch.randn(4, 5, dtype=torch.float64), torch.arange(4)
    probabilities = teacher.softmax(dim=1)
    enhanced = probabilities + F.one_hot(target, 5)
    weights = enhanced**1.5 - F.one_hot(target, 5)
    student = weights.log().requires_grad_()
    value = ofa.loss(student, teacher, target, gamma=1.5, temperature=1.0)
    torch.testing.assert_close(gradient(value, student), torch.zeros(4, 5).double())


def test_ofa_of_a_wide_gap_that_both_have_is_nothing():
    """exp(-200) is 0 in single precision, and 0 times its logarithm not a number."""
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    value = ofa.loss(logits, logits.detach(), torch.tensor([0]), gamma=1.5, temperature=1.0)
    assert value == 0
    assert not gradient(value, logits).any()


def test_luminet_of_two_samples_of_two_classes():
    """Two samples stand at 1 and -1 in a class that tells them apart, and at 0 in one that does not."""
    student, teacher = torch.tensor([[9.0, 5.0], [-9.0, 5.0]]) * 1e3, torch.tensor([[5.0, 9.0], [5.0, -9.0]]) * 1e3
    p = 1 / (1 + math.exp(-1 / 2))  # a logit 1 higher, at temperature 2
    expected = 9 * (2 * p - 1) / 2
    torch.testing.assert_close(luminet.loss(student, teacher, alpha=3.0, temperature=2.0), torch.tensor(expected))


def test_luminet_takes_no_notice_of_the_place_and_size_of_a_classs_logits():
    student, teacher = torch.randn(2, 16, 5, dtype=torch.float64)
    moved = 100 * student * torch.rand(5).add(0.5) + 50 * torch.randn(5)
    values = [luminet.loss(own, teacher, alpha=2.0, temperature=1.0) for own in (100 * student, moved)]
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)


def test_luminet_of_one_sample_is_nothing():
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    value = luminet.loss(student.requires_grad_(), teacher, alpha=2.0, temperature=1.0)
    assert value == 0
    assert not gradient(value, student).any()


def test_luminet_of_a_constant_class_stays_small_and_finite():
    student, teacher = torch.randn(2, 16, 5)
    student[:, 2] = 0.1  # the mean of such numbers is rounded
    teacher[:, 3] = -1e3
    value = luminet.loss(student.requires_grad_(), teacher, alpha=1.0, temperature=1.0)
    assert torch.isfinite(value)
    assert gradient(value, student).abs().max() < 1 / math.sqrt(luminet.EPSILON)


WEIGHTS = {"temperature": 4.0, "within_weight": 3.0, "cross_weight": 5.0}


@pytest.mark.parametrize(("tau_weak", "within"), [(0.85, True), (0.9, False)])
@pytest.mark.parametrize(("tau_strong", "across"), [(0.85, True), (0.9, False)])
def test_crld_of_two_classes(tau_weak, within, tau_strong, across):
    """The teacher gives 0.88 to the first class. Each sum has two divergences from a uniform student."""
    views = UNIFORM, UNIFORM, SURE, SURE
    got = crld.loss(*views, **WEIGHTS, tau_weak=tau_weak, tau_strong=tau_strong)
    torch.testing.assert_close(got, torch.full((3,), 2 * (3 * within + 5 * across) * two_classes(4.0)))


def test_crld_by_its_definition():
    """A mask belongs to a sum: that of the weak view to the divergences within views, whichever view they are of."""
    own_weak, own_strong, weak, strong = 2 * torch.randn(4, 32, 5, dtype=torch.float64)
    sure_weak, sure_strong = weak.softmax(dim=1).amax(dim=1) >= 0.6, strong.softmax(dim=1).amax(dim=1) >= 0.5

    def divergence(student, teacher):
        return kd.loss(student, teacher, temperature=4.0)

    within = torch.where(sure_weak, divergence(own_weak, weak) + divergence(own_strong, strong), 0.0)
    across = torch.where(sure_strong, divergence(own_strong, weak) + divergence(own_weak, strong), 0.0)
    assert len({*zip(sure_weak.tolist(), sure_strong.tolist(), strict=True)}) == 4
    got = crld.loss(own_weak, own_strong, weak, strong, **WEIGHTS, tau_weak=0.6, tau_strong=0.5)
    torch.testing.assert_close(got, 3 * within + 5 * across)


def test_crld_without_sure_samples_is_nothing():
    views = torch.randn(4, 8, 5, dtype=torch.float64).requires_grad_()
    value = crld.loss(*views, **WEIGHTS, tau_weak=1.5, tau_strong=1.5)
    assert not value.any()
    assert not gradient(value, views).any()


def test_crld_standardises_the_divergences_alone():
    """Of five standardised logits none is sure enough; the confidences are those of the plain ones."""
    own_weak, own_strong, weak, strong = torch.randn(4, 8, 5, dtype=torch.float64)
    weak[:, 0], strong[:, 1] = 9.0, 9.0
    views = own_weak, own_strong, weak, strong
    flat = [standardize(view) for view in views]
    options = {**WEIGHTS, "tau_weak": 0.9, "tau_strong": 0.9}
    assert not crld.loss(*flat, **options).any()
    always = crld.loss(*flat, **{**options, "tau_weak": 0.0, "tau_strong": 0.0})
    torch.testing.assert_close(crld.loss(*views, **options, standardize=True), always)
