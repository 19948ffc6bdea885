"""WKD-L: transport whose cost is known, the removal of the target's class, and where the costs come from."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdcore.methods import _class_cost, wkd_l
from kdcore.system.errors import UserError
from tests.methods.inputs import output, prepared, setting

RECIPE = {"temperature": 2.0, "gamma": 5.0, "sinkhorn_reg": 0.1, "sinkhorn_iterations": 10}
TRANSPORT = {"temperature": 1.0, "sinkhorn_reg": 0.1, "sinkhorn_iterations": 300}


def logits_of(*probabilities):
    """Of three classes, the first being the target: what is left of its softmax without the first is as given."""
    return torch.tensor([[0.0, *(math.log(p) for p in probabilities)]], dtype=torch.float64)


def uniform_cost(classes, distance):
    return distance * (1 - torch.eye(classes, dtype=torch.float64))


def transported(student, teacher, cost, **changes):
    first = torch.zeros(len(student), dtype=torch.long)
    return wkd_l.terms(student, teacher, first, cost, **{**TRANSPORT, **changes})[1]


@pytest.mark.parametrize(("source", "goal"), [((0.7, 0.3), (0.4, 0.6)), ((0.5, 0.5), (0.5, 0.5))])
def test_entropic_transport_between_two_classes(source, goal):
    """The plan [[x, a - x], [b - x, 1 - a - b + x]] has the kernel's odds ratio exp(2 d / reg), which gives x."""
    distance, reg, (a, _), (b, _) = 0.3, 0.2, source, goal
    odds = math.exp(2 * distance / reg)
    quadratic, linear, constant = 1 - odds, 1 - a - b + odds * (a + b), -odds * a * b
    x = (-linear + math.sqrt(linear**2 - 4 * quadratic * constant)) / (2 * quadratic)
    expected = distance * (a + b - 2 * x)
    got = transported(logits_of(*source), logits_of(*goal), uniform_cost(3, distance), sinkhorn_reg=reg)
    torch.testing.assert_close(got, torch.tensor([expected]).double(), rtol=1e-5, atol=1e-6)


def test_with_little_entropy_as_much_is_moved_as_differs():
    """Transport between classes that are all equally far apart costs the total variation times the distance."""
    student, teacher = logits_of(0.5, 0.3, 0.2), logits_of(0.2, 0.4, 0.4)
    got = transported(student, teacher, uniform_cost(4, 0.4), sinkhorn_reg=0.04)
    torch.testing.assert_close(got, torch.tensor([0.3 * 0.4]).double(), rtol=2e-3, atol=0)


def test_mass_moves_from_the_students_class_to_the_teachers():
    """By the cost's row of the first and its column of the second, and not the other way round."""
    cost = torch.zeros(3, 3, dtype=torch.float64)
    cost[1, 2], cost[2, 1] = 0.4, 0.1
    student, teacher = logits_of(1 - 1e-9, 1e-9), logits_of(1e-9, 1 - 1e-9)
    got = torch.cat([transported(student, teacher, cost), transported(teacher, student, cost)])
    torch.testing.assert_close(got, torch.tensor([0.4, 0.1]).double(), rtol=1e-4, atol=0)


def test_equal_logits_cost_next_to_nothing_where_classes_are_far_apart():
    logits = torch.randn(5, 6, dtype=torch.float64)
    assert (transported(logits, logits, uniform_cost(6, 0.9), sinkhorn_reg=0.05) < 1e-6).all()


def test_without_cost_nothing_but_the_constant_is_paid():
    """1e-8 for the whole mass; negative costs count as none."""
    student, teacher = 3 * torch.randn(2, 5, 6, dtype=torch.float64)
    got = transported(student, teacher, -torch.rand(6, 6, dtype=torch.float64))
    torch.testing.assert_close(got, torch.full((5,), wkd_l.EPSILON).double(), rtol=1e-5, atol=0)


def test_two_classes_leave_nothing_to_transport():
    student, teacher = torch.randn(2, 4, 2, dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1])
    got = wkd_l.loss(student, teacher, target, uniform_cost(2, 0.5), **RECIPE)
    p_teacher, p_student = (x.softmax(1).gather(1, target[:, None])[:, 0] for x in (teacher, student))
    torch.testing.assert_close(got, -p_teacher * p_student.log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_a_class_without_mass_is_a_class_removed(reg):
    """Gradients too; with a cost that is not symmetric, and so small a kernel that the constants matter."""
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 9, dtype=torch.float64)
    student.requires_grad_()
    cost, target = 0.3 + torch.rand(9, 9, dtype=torch.float64), torch.tensor([0, 8, 3, 3, 5, 1])
    options = {"temperature": 2.0, "sinkhorn_reg": reg, "sinkhorn_iterations": 10}
    _, got = wkd_l.terms(student, teacher, target, cost, **options)
    apart = [removed(student[i], teacher[i], int(target[i]), cost, **options) for i in range(6)]
    torch.testing.assert_close(got, torch.stack(apart), rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (got, torch.stack(apart))]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def removed(student, teacher, target, cost, *, temperature, sinkhorn_reg, sinkhorn_iterations):
    """The definition for one sample, with rows and columns taken out."""
    others = [i for i in range(len(student)) if i != target]
    a, b = ((logits[others] / temperature).softmax(0) for logits in (student, teacher))
    cost = cost[others][:, others] + wkd_l.EPSILON
    kernel = (-cost / sinkhorn_reg).exp()
    u = torch.full_like(a, 1 / len(others))
    for _ in range(sinkhorn_iterations):
        v = b / (kernel.T @ u + wkd_l.EPSILON)
        u = a / (kernel @ v + wkd_l.EPSILON)
    return (u[:, None] * kernel * v * cost).sum()


def test_logits_may_be_shifted():
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    target, cost = torch.arange(4), torch.rand(6, 6, dtype=torch.float64)
    expected = wkd_l.loss(student, teacher, target, cost, **RECIPE)
    torch.testing.assert_close(wkd_l.loss(student + 7, teacher - 3, target, cost, **RECIPE), expected)


def test_classes_may_be_numbered_otherwise():
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    target, cost, order = torch.arange(4), torch.rand(6, 6, dtype=torch.float64), torch.randperm(6)
    expected = wkd_l.loss(student, teacher, target, cost, **RECIPE)
    got = wkd_l.loss(student[:, order], teacher[:, order], order.argsort()[target], cost[order][:, order], **RECIPE)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_classes_and_extreme_logits_stay_finite(distance, dtype):
    """At a distance of 50 the kernel is 0 in float32."""
    rows = torch.tensor([[1e3, -1e3, 0, 1], [-1e3, 1e3, 1e3, 0], [0, 0, 0, 0], [0, 0, 0, 1e3]], dtype=dtype)
    for teacher in (rows, rows.flip(0)):
        student = rows.clone().requires_grad_()
        value = wkd_l.loss(student, teacher, torch.arange(4), uniform_cost(4, distance).float(), **RECIPE)
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), student)[0]).all()


class TestCost:
    def test_of_classifiers_rows(self):
        """Parallel rows, whatever their lengths, a right angle, opposite rows; and a row of zeros."""
        rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])
        got = _class_cost.of_classifier(rows)
        expected = torch.tensor([[0, 0, 1, 2, 1], [0, 0, 1, 2, 1], [1, 1, 0, 1, 1], [2, 2, 1, 0, 1], [1, 1, 1, 1, 0]])
        torch.testing.assert_close(got, expected.float())

    def test_linear_cka_of_related_features(self):
        """A rotation, a scale and a shift change nothing; features that do not vary together are unlike fully."""
        first = torch.tensor([[1.0, 0], [-1, 0], [0, 0], [0, 0]]).double()
        other = torch.tensor([[0.0, 0], [0, 0], [0, 1], [0, -1]]).double()
        turned = 3 * first @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double() + 5
        constant = torch.ones(4, 2).double()
        got = _class_cost.of_features(torch.stack([first, turned, other, constant]))
        expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]).double()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("shape", [(3, 300, 4), (4, 5, 9), (2, 128, 3), (3, 129, 3)])
    def test_both_ways_to_multiply_agree_with_the_definition(self, shape):
        features = torch.randn(shape, dtype=torch.float64)
        features -= features.mean(dim=1, keepdim=True)
        expected = torch.tensor([[(a.T @ b).norm().item() ** 2 for b in features] for a in features]).double()
        torch.testing.assert_close(_class_cost._by_columns(features), expected)
        torch.testing.assert_close(_class_cost._by_rows(features), expected)

    def test_sharpened(self):
        got = _class_cost.sharpened(torch.tensor([0.0, 0.5, 1.0]), 2.0)
        torch.testing.assert_close(got, 1 - torch.tensor([0.0, -1.0, -2.0]).exp())

    def test_images_are_gathered_by_class_in_their_order(self):
        """Class 0 has the images 1, 2 and 5, class 1 images 0 and 3, and class 2 has none; two of each are taken."""
        labels = torch.tensor([1, 0, 0, 1, 3, 0, 3])
        values = torch.arange(14.0).reshape(7, 1, 2).square()
        outputs = [values[:3], values[3:4], values[4:]]
        got = _class_cost.gather(outputs, labels, 4, rows=lambda output: output)
        pairs = torch.stack([values[[1, 2], 0], values[[0, 3], 0], torch.zeros(2, 2), values[[4, 6], 0]])
        torch.testing.assert_close(got, pairs - pairs.mean(dim=1, keepdim=True))

    def test_positions_of_an_image_follow_each_other(self):
        image = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2).square()
        got = _class_cost.gather([output([image])], torch.tensor([1, 0]), 2, rows=_class_cost._positions)
        expected = torch.stack([image[1], image[0]]).permute(0, 2, 3, 1).reshape(2, 4, 3)
        torch.testing.assert_close(got, expected - expected.mean(dim=1, keepdim=True))

    @pytest.mark.parametrize(("largest", "images"), [(480, 3), (479, 2), (160, 1), (0, 1)])
    def test_the_first_images_stand_for_those_that_take_too_much(self, largest, images):
        """Two classes of images with four rows of five numbers: 160 bytes per image of each."""
        labels, values = torch.tensor([0, 0, 0, 1, 1, 1]), torch.randn(6, 4, 5)
        got = _class_cost.gather([values], labels, 2, lambda output: output, largest)
        kept = values.unflatten(0, (2, 3))[:, :images].flatten(1, 2)
        torch.testing.assert_close(got, kept - kept.mean(dim=1, keepdim=True))

    def test_every_image_needs_an_output(self):
        for outputs in ([], [torch.randn(3, 1, 2)]):
            with pytest.raises(ValueError, match=f"those of {3 * len(outputs)} images, not of 4"):
                _class_cost.gather(outputs, torch.tensor([0, 1, 0, 1]), 2, lambda output: output)


def taught(teacher=None, **changes):
    """A setting whose teacher has seen twelve images of three classes."""
    shallow, deep = torch.rand(12, 4, 4, 4), torch.rand(12, 5, 2, 2)
    seen = output([shallow, deep], logits=torch.randn(12, 3))
    parts = [type(seen)(*(half(field, i) for field in seen)) for i in range(2)]
    options = {"labels": torch.arange(12) % 3, "teacher_outputs": lambda: iter(parts), **changes}
    return setting(seen, teacher or seen, **options), seen


def half(field, i):
    if isinstance(field, tuple):
        return tuple(half(part, i) for part in field)
    return None if field is None else field[6 * i : 6 * i + 6]


class TestAdapter:
    def adapter(self, given, cost="cka_map", **changes):
        options = {**RECIPE, "sharpen": 1.5, "gamma_decay_from": 0.5, **changes}
        return wkd_l.Adapter(given, cost=cost, **options)

    def expected(self, features):
        return 1 - (-1.5 * _class_cost.of_features(features.contiguous())).exp()

    def test_costs_of_maps_and_of_logits(self):
        given, seen = taught()
        by_class = seen.stages[-1].flatten(2).mT.unflatten(0, (4, 3)).transpose(0, 1).flatten(1, 2)
        torch.testing.assert_close(self.adapter(given).cost, self.expected(by_class))
        by_class = seen.logits.unflatten(0, (4, 3)).transpose(0, 1)
        torch.testing.assert_close(self.adapter(given, "cka_logits").cost, self.expected(by_class))

    def test_classes_of_two_images_cannot_be_told_apart_by_their_logits(self):
        labels = torch.tensor([0, 1, 0, 1, *[0] * 8])
        given, _ = taught(labels=labels)
        with pytest.raises(UserError, match="cost: cka_logits: the smallest class gives 2 rows of features"):
            self.adapter(given, "cka_logits")
        assert self.adapter(given).cost[0, 1] > 0

    def test_a_gamma_that_never_falls(self):
        given, _ = taught()
        adapter = self.adapter(given, gamma_decay_from=1.0, gamma=2.0)
        logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        losses = [
            adapter(logits, logits.flip(0), target, prepared=prepared(adapter, epoch)) for epoch in (1, given.epochs)
        ]
        assert torch.equal(*losses)

    def test_cost_of_the_teachers_classifier(self):
        student, teacher = nn.Linear(5, 3), nn.Linear(5, 3)
        adapter = self.adapter(taught(classifiers=(student, teacher))[0], "classifier")
        expected = 1 - (-1.5 * _class_cost.of_classifier(teacher.weight)).exp()
        torch.testing.assert_close(adapter.cost, expected)
        assert not adapter.cost.requires_grad

    def test_the_teacher_is_asked_once_where_something_keeps_the_cost(self):
        kept, asked = {}, []

        def keep(name, compute):
            if name not in kept:
                kept[name] = compute()
            return kept[name]

        given, seen = taught()
        given = replace(given, kept=keep, teacher_outputs=lambda: asked.append(1) or iter([seen]))
        first = self.adapter(given)
        assert torch.equal(self.adapter(given).cost, first.cost)
        assert not torch.equal(self.adapter(given, sharpen=3.0).cost, first.cost)
        assert len(asked) == 1
        self.adapter(given, "cka_logits")
        assert len(kept) == len(asked) == 2

    def test_a_teacher_without_maps_is_refused(self):
        given, seen = taught()
        given, _ = taught(teacher=seen._replace(stages=()))
        with pytest.raises(UserError, match="the teacher does not have; take cka_logits or classifier"):
            self.adapter(given)

    def test_nothing_is_trained_and_the_cost_is_saved(self):
        adapter = self.adapter(taught()[0])
        assert list(adapter.parameters()) == []
        assert list(adapter.state_dict()) == ["cost"]

    @pytest.mark.parametrize(("epoch", "share"), [(1, 1.0), (5, 1.0), (6, 0.9045), (10, 0.0)])
    def test_gamma_falls_after_half_of_ten_epochs(self, epoch, share):
        """And the target's term stays."""
        given, seen = taught()
        adapter = self.adapter(given)
        seen_by_both = torch.randn(12, 3), seen.logits, given.labels
        options = {key: value for key, value in RECIPE.items() if key != "gamma"}
        of_target, transport = wkd_l.terms(*seen_by_both, adapter.cost, **options)
        value = adapter(*seen_by_both, prepared=prepared(adapter, epoch))
        torch.testing.assert_close(value, of_target + 5 * share * transport, rtol=1e-4, atol=0)
