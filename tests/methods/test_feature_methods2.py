"""Losses and adapters of the second wave's feature methods: closed forms, values by hand, and properties."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdcore.methods import ickd, itrd, mgd, semckd, srrl, wkd_f
from kdcore.numerics import at_least_float32
from tests.methods.inputs import loss_of, maps, output, setting, step

SRRL = {"logit_weight": 2.0}
ITRD = {"alpha": 1.5, "correlation_weight": 2.0, "mutual_weight": 0.5}
ADAPTERS = {
    "srrl": (srrl, {"variant": "feature_map", **SRRL}),
    "srrl pooled": (srrl, {"variant": "pooled", **SRRL}),
    "semckd": (semckd, {"soft": 1.0}),
    "mgd channel": (mgd, {"mask_ratio": 0.15, "mask": "channel"}),
    "mgd spatial": (mgd, {"mask_ratio": 0.5, "mask": "spatial"}),
    "itrd": (itrd, ITRD),
    "ickd": (ickd, {}),
    "wkd_f": (wkd_f, {"mean_weight": 3.0, "grid": 4}),
}


class NoReading(TorchDispatchMode):
    """Refuses what waits for a device: reading a value, and shapes that depend on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waiting = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index")
        assert not any(name in str(function) for name in waiting), function
        return function(*args, **(kwargs or {}))


def losses(batch, dtype=torch.float32):
    """Name -> a loss of the student's tensors, those tensors, and the teacher's, which have the same shapes."""
    classifier = nn.Linear(5, 7).to(dtype)
    classified = at_least_float32(lambda x: classifier(x.mean(dim=(2, 3)) if x.dim() == 4 else x).detach())

    def by_classifier(variant):
        def loss(student, teacher):
            return srrl.loss(student, teacher, classifier, classified(teacher), variant=variant, **SRRL)

        return loss

    def attended(*values):
        own, others = values[:4], values[4:]
        attention = torch.full((len(own[0]), 2, 2), 0.5).to(own[0])
        return semckd.loss([own[:2], own[2:]], [others[:2], others[2:]], attention)

    def draw(*shapes):
        return [[torch.randn(batch, *shape, dtype=dtype) for shape in shapes] for _ in range(2)]

    def embedded_alike(student, embedded, teacher, _):
        return itrd.loss(student, embedded, teacher, **ITRD)

    a_map = (5, 4, 4)
    return {
        "srrl": (by_classifier("feature_map"), *draw(a_map)),
        "srrl pooled": (by_classifier("pooled"), *draw((5,))),
        "semckd": (attended, *draw((3, 4, 4), (5, 4, 4), (3, 2, 2), (5, 2, 2))),
        "mgd": (lambda *pair: mgd.loss(*pair, alpha=0.1), *draw(a_map)),
        "itrd": (embedded_alike, *draw((5,), (5,))),
        "ickd": (ickd.loss, *draw(a_map)),
        "wkd_f": (lambda *pair: wkd_f.loss(*pair, mean_weight=3.0, grid=2), *draw(a_map)),
    }


NAMES = list(losses(1))
EVERY = pytest.mark.parametrize("name", NAMES)


def measure(function, student, teacher):
    """The loss, and its gradients by the student's tensors."""
    own = [tensor.clone().requires_grad_() for tensor in student]
    value = function(*own, *teacher)
    return value.detach(), torch.autograd.grad(value, own)


class TestEveryLoss:
    @pytest.mark.parametrize("name", [name for name in NAMES if name != "itrd"])
    def test_equal_inputs_have_no_loss_and_no_gradient(self, name):
        function, _, teacher = losses(6)[name]
        value, gradients = measure(function, teacher, teacher)
        torch.testing.assert_close(value, torch.tensor(0.0), atol=1e-6, rtol=0)
        assert all(gradient.abs().max() < 1e-5 for gradient in gradients)

    @EVERY
    def test_a_gradient_step_lowers_the_loss(self, name):
        torch.manual_seed(0)
        function, student, teacher = losses(6)[name]
        start, gradients = measure(function, student, teacher)
        rate = 0.01 * start.abs() / sum(gradient.square().sum() for gradient in gradients)
        assert rate.isfinite()
        moved = [x - rate * gradient for x, gradient in zip(student, gradients, strict=True)]
        assert measure(function, moved, teacher)[0] < start

    @EVERY
    @pytest.mark.parametrize("batch", [1, 4])
    def test_dead_and_far_inputs_stay_finite(self, name, batch):
        function, alive, other = losses(batch)[name]
        dead, far = [torch.zeros_like(x) for x in alive], [1e3 * x for x in alive]
        for student, teacher in product((alive, dead, far), (other, dead, [-x for x in far])):
            value, gradients = measure(function, student, teacher)
            assert torch.isfinite(value)
            assert all(torch.isfinite(gradient).all() for gradient in gradients)

    @EVERY
    def test_order_of_the_batch_does_not_matter(self, name):
        function, student, teacher = losses(6, torch.float64)[name]
        order = torch.randperm(6)
        turned = function(*(x[order] for x in student), *(x[order] for x in teacher))
        torch.testing.assert_close(turned, function(*student, *teacher))

    @EVERY
    def test_half_precision_is_widened(self, name):
        function, student, teacher = losses(6)[name]
        student, teacher = ([x.bfloat16() for x in of_one] for of_one in (student, teacher))
        with torch.autocast("cpu", torch.bfloat16):
            value = function(*student, *teacher)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, function(*(x.float() for x in student), *(x.float() for x in teacher)))


SHAPES = {
    "alike": ((2, 3, 4), 8, (5, 6, 7), 8),
    "equal widths": ((2, 3, 4), 8, (5, 6, 4), 8),
    "other number of stages": ((2, 3, 4), 8, (5, 6, 7, 8), 8),
    "half": ((2, 3), 8, (5, 6, 7), 32),
    "double": ((2, 3, 4), 32, (5, 6), 8),
    "others": ((2, 3), 14, (5, 6), 20),
    "one pixel": ((2, 3, 4), 4, (5, 6, 7), 4),
    "one pixel of the student": ((2, 3, 4), 4, (5, 6), 16),
    "one pixel of the teacher": ((2, 3, 4), 16, (5, 6, 7), 4),
}


@pytest.mark.parametrize("name", ADAPTERS)
class TestEveryAdapter:
    def built(self, name, shapes="alike", batch=4):
        torch.manual_seed(0)
        method, options = ADAPTERS[name]
        own, own_size, other, other_size = SHAPES[shapes]
        student, teacher = (
            output(maps(*own, size=own_size, batch=batch)),
            output(maps(*other, size=other_size, batch=batch)),
        )
        return method.Adapter(setting(student, teacher), **options), student, teacher

    @pytest.mark.parametrize("shapes", SHAPES)
    def test_any_pair(self, name, shapes):
        adapter, student, teacher = self.built(name, shapes)
        for of_stage in student.stages:
            of_stage.requires_grad_()
        value = loss_of(adapter, step(student._replace(pooled=student.final_map.mean(dim=(2, 3))), teacher))
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in adapter.parameters())
        assert torch.isfinite(student.final_map.grad).all()
        assert student.final_map.grad.any()

    def test_a_gradient_step_lowers_the_loss(self, name):
        adapter, student, teacher = self.built(name)
        start = loss_of(adapter, step(student, teacher))
        parameters = list(adapter.parameters())
        gradients = torch.autograd.grad(start, parameters)
        rate = 0.01 * start.detach().abs() / sum(g.square().sum() for g in gradients)
        with torch.no_grad():
            torch._foreach_sub_(parameters, [rate * gradient for gradient in gradients])
        assert loss_of(adapter, step(student, teacher)) < start

    @pytest.mark.parametrize("batch", [2, 3, 5])
    def test_a_batch_of_another_size(self, name, batch):
        """The last of an epoch is shorter, or one longer."""
        adapter, _, _ = self.built(name)
        _, student, teacher = self.built(name, batch=batch)
        assert torch.isfinite(loss_of(adapter, step(student, teacher)))

    def test_nothing_is_read_back(self, name):
        adapter, student, teacher = self.built(name)
        student.final_map.requires_grad_()
        with NoReading():
            loss_of(adapter, step(student, teacher)).backward()

    def test_global_random_numbers_are_left_alone(self, name):
        adapter, student, teacher = self.built(name)
        before = torch.get_rng_state()
        loss_of(adapter, step(student, teacher))
        assert torch.equal(torch.get_rng_state(), before)


class TestSRRL:
    @pytest.mark.parametrize("variant", ["feature_map", "pooled"])
    def test_value(self, variant):
        """Features that are 2 too large in 3 places; their sum, the logit, is 6 too large."""
        classifier = nn.Linear(3, 1)
        nn.init.ones_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        student, teacher = torch.full((2, 3), 2.0), torch.zeros(2, 3)
        if variant == "feature_map":
            student, teacher = student[:, :, None, None].expand(2, 3, 4, 4), teacher[:, :, None, None]
        value = srrl.loss(student, teacher, classifier, torch.zeros(2, 1), variant=variant, logit_weight=0.5)
        torch.testing.assert_close(value, torch.tensor(4 + 0.5 * 36))

    def test_only_the_spatial_mean_counts(self):
        student, teacher = torch.randn(2, 2, 5, 4, 4)
        classifier, logits = nn.Linear(5, 3), torch.randn(2, 3)
        whole = srrl.loss(student, teacher, classifier, logits, variant="feature_map", **SRRL)
        means = student.mean(dim=(2, 3)), teacher.mean(dim=(2, 3))
        torch.testing.assert_close(srrl.loss(*means, classifier, logits, variant="pooled", **SRRL), whole)

    def test_the_classifier_gets_no_gradient(self):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        of_both = setting(student, teacher)
        adapter = srrl.Adapter(of_both, variant="feature_map", **SRRL)
        loss_of(adapter, step(student, teacher)).backward()
        assert all(p.grad is None for p in of_both.classifiers[1].parameters())
        assert {name.split(".")[0] for name, _ in adapter.named_parameters()} == {"connector"}

    @pytest.mark.parametrize("variant", ["feature_map", "pooled"])
    def test_what_the_batch_norm_sees(self, variant):
        """All pixels or one vector per image, so that the two differ by more than rounding."""
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        of_both = setting(student, teacher)
        adapter = srrl.Adapter(of_both, variant=variant, **SRRL)
        weight = adapter.connector[0].weight
        raw = student.final_map if variant == "feature_map" else student.pooled[:, :, None, None]
        connected = F.relu(F.batch_norm(F.conv2d(raw, weight), None, None, training=True)).mean(dim=(2, 3))
        expected = srrl.loss(
            connected, teacher.pooled, of_both.classifiers[1], teacher.logits, variant="pooled", **SRRL
        )
        torch.testing.assert_close(loss_of(adapter, step(student, teacher)), expected)

    def test_weights_at_the_start(self):
        """The authors' deviation, root of 2 over the teacher's width, and torch's uniform numbers elsewhere."""
        student, teacher = output(maps(2, 300)), output(maps(4, 400))
        by_map, by_vector = (
            srrl.Adapter(setting(student, teacher), variant=variant, **SRRL).connector[0].weight
            for variant in ("feature_map", "pooled")
        )
        assert by_map.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
        assert by_vector.abs().max() <= 1 / math.sqrt(300)


class TestSemCKD:
    def test_value(self):
        """A student's stage differs by 2 from one stage of the teacher and by 4 from another."""
        student = [[torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 1, 1)]]
        teacher = [[torch.full((2, 3, 4, 4), 2.0), torch.full((2, 5, 1, 1), 4.0)]]
        attention = torch.tensor([[[0.25, 0.75]], [[1.0, 0.0]]])
        value = semckd.loss(student, teacher, attention)
        torch.testing.assert_close(value, torch.tensor(((0.25 * 4 + 0.75 * 16) + 4) / 2))

    def test_stages_of_the_student_are_averaged(self):
        student, teacher = torch.randn(2, 3, 5, 4, 4)
        attention = torch.ones(3, 1, 1)
        once = semckd.loss([[student]], [[teacher]], attention)
        torch.testing.assert_close(once, F.mse_loss(student, teacher))
        twice = semckd.loss([[student]] * 2, [[teacher]] * 2, attention.expand(3, 2, 1))
        torch.testing.assert_close(twice, once)

    def test_attention_of_known_vectors(self):
        queries, keys = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.5, 0.0], [0.0, 7.0]]])
        expected = torch.tensor([[[2.0, 0.0]]]).softmax(dim=2)
        torch.testing.assert_close(semckd.attention_of(queries, keys, soft=0.5), expected)

    def test_embeddings_of_zeros_attend_to_all_alike(self):
        queries, keys = torch.zeros(2, 1, 3, requires_grad=True), torch.randn(2, 4, 3)
        attention = semckd.attention_of(queries, keys, soft=1.0)
        torch.testing.assert_close(attention, torch.full((2, 1, 4), 0.25))
        assert not torch.autograd.grad(attention[..., 0].sum(), queries)[0].any()

    @pytest.mark.parametrize(("batch", "width"), [(3, 3), (2, 3), (4, 3)])
    def test_affinities_have_the_width_of_a_batch(self, batch, width):
        feature_map = torch.randn(batch, 2, 2, 2)
        products = torch.einsum("achw,bchw->ab", feature_map, feature_map)
        found = semckd.affinities(feature_map, width)
        assert found.shape == (batch, width)
        common = min(batch, width)
        torch.testing.assert_close(found[:, :common], products[:, :common])
        assert not found[:, batch:].any()

    @pytest.mark.parametrize(("batch_size", "width"), [(64, 16), (4, 1), (3, 1), (1, 1)])
    def test_width_of_the_embeddings(self, batch_size, width):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = semckd.Adapter(setting(student, teacher, batch_size=batch_size), soft=1.0)
        shapes = [
            [layer.weight.shape for layer in (embed[0], embed[2])] for embed in (adapter.queries[0], adapter.keys[0])
        ]
        assert shapes == [[(2 * width, batch_size), (width, 2 * width)]] * 2

    def test_gradients_reach_the_maps_through_the_attention(self):
        student, teacher = output(maps(2, 3, 4)), output(maps(4, 5, 6))
        adapter = semckd.Adapter(setting(student, teacher, batch_size=8), soft=1.0)
        student.stages[1].requires_grad_()
        attention = adapter.attention(student, teacher)
        torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, 2))
        assert torch.autograd.grad(attention.square().sum(), student.stages[1])[0].any()


class TestMGD:
    def test_value(self):
        """A difference of 2 in 3 x 16 entries of each of two images."""
        value = mgd.loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0), alpha=0.5)
        torch.testing.assert_close(value, torch.tensor(0.5 * 4 * 48))

    @pytest.mark.parametrize("mask", ["channel", "spatial"])
    @pytest.mark.parametrize("mask_ratio", [0.0, 0.15, 0.65])
    def test_share_that_is_dropped(self, mask, mask_ratio):
        noise = torch.arange(10_000) / 10_000
        keep = mgd.kept(noise, mask=mask, mask_ratio=mask_ratio)
        assert set(keep.tolist()) <= {0.0, 1.0}
        assert 1 - keep.mean().item() == pytest.approx(mask_ratio, abs=2e-4)
        if mask_ratio:
            assert keep[0] == (mask == "spatial")
            assert keep[-1] == (mask == "channel")

    @pytest.mark.parametrize(("mask", "shape"), [("channel", (4, 6, 1, 1)), ("spatial", (4, 1, 4, 4))])
    def test_draws_come_from_the_steps_generator_in_any_precision(self, monkeypatch, mask, shape):
        student, teacher = output(maps(2, 3)), output(maps(5, 6))
        adapter = mgd.Adapter(setting(student, teacher), mask_ratio=0.5, mask=mask)
        drawn = []
        monkeypatch.setattr(mgd, "kept", lambda noise, **options: drawn.append(noise) or torch.ones_like(noise))
        loss_of(adapter, step(student, teacher))
        with torch.autocast("cpu", torch.bfloat16):
            halves = [out._replace(stages=tuple(m.bfloat16() for m in out.stages)) for out in (student, teacher)]
            loss_of(adapter, step(*halves))
        expected = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        assert all(torch.equal(noise, expected) for noise in drawn)
        assert len(drawn) == 2

    @pytest.mark.parametrize("mask", ["channel", "spatial"])
    def test_what_is_dropped_has_no_influence(self, mask):
        """Neither a channel of an image nor a pixel that the mask drops changes what is generated."""
        outputs = output(maps(2, 3, 4)), output(maps(5, 6, 4))
        adapter = mgd.Adapter(setting(*outputs), mask_ratio=0.5, mask=mask)
        assert isinstance(adapter.align, nn.Identity)
        own = outputs[0].stages[-1].requires_grad_()
        noise = torch.rand((4, 4, 1, 1) if mask == "channel" else (4, 1, 2, 2))
        gradient = torch.autograd.grad(adapter.generated(own, noise).sum(), own)[0]
        dropped = (mgd.kept(noise, mask=mask, mask_ratio=0.5) == 0).expand_as(own)
        assert dropped.any()
        assert not gradient[dropped].any()
        assert gradient[~dropped].any()

    def test_larger_map_is_pooled(self):
        """Before it is aligned, the student's; with all kept."""
        for sizes in ((8, 4), (4, 8), (4, 4)):
            student, teacher = (output(maps(2, size=size) * 2) for size in sizes)
            adapter = mgd.Adapter(setting(student, teacher), mask_ratio=0.0, mask="channel")
            own, other = (F.adaptive_avg_pool2d(out.stages[-1], 4) for out in (student, teacher))
            expected = mgd.loss(adapter.generation(own), other, alpha=1.0)
            torch.testing.assert_close(loss_of(adapter, step(student, teacher)), expected)


class TestITRD:
    @pytest.mark.parametrize(("student", "correlation"), [((3.0, 1.0), 0.5), ((1.0, 3.0), -0.5)])
    def test_correlation_of_two_images(self, student, correlation):
        """The unbiased deviation makes the correlation of two images 1/2 where they agree, and else -1/2."""
        found = itrd.correlation(torch.tensor(student)[:, None], torch.tensor([[9.0], [7.0]]), alpha=1.5)
        assert found.item() == pytest.approx(3 * math.log2(1 - correlation), rel=1e-5)

    def test_channels_are_summed(self):
        channel = torch.randn(6, 1)
        one, four = (itrd.correlation(channel.expand(6, n), channel.expand(6, n) ** 3, alpha=1.0) for n in (1, 4))
        torch.testing.assert_close(four, one + 2)

    def test_mutual_term_of_two_images(self):
        """Gram matrices of trace 1: all 1/2 for equal images, half the identity for orthogonal ones."""
        equal, orthogonal = torch.ones(2, 3), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
        assert itrd.mutual(equal, orthogonal).item() == pytest.approx(1 - 0.5)
        assert itrd.mutual(equal, equal).item() == pytest.approx(0, abs=1e-6)
        assert itrd.mutual(orthogonal, equal).item() == pytest.approx(0, abs=1e-6)

    def test_weights(self):
        student, embedded, teacher = torch.randn(6, 3), torch.randn(6, 5), torch.randn(6, 5)
        expected = 2 * itrd.correlation(embedded, teacher, alpha=1.2) + 3 * itrd.mutual(embedded, teacher)
        found = itrd.loss(student, embedded, teacher, alpha=1.2, correlation_weight=2, mutual_weight=3)
        torch.testing.assert_close(found, expected)

    def test_equal_widths_leave_the_embedding_to_the_correlation(self):
        student, embedded, teacher = torch.randn(3, 6, 5)
        found = itrd.loss(student, embedded, teacher, alpha=1.5, correlation_weight=0, mutual_weight=1)
        torch.testing.assert_close(found, itrd.mutual(student, teacher))

    def test_shift_and_scale_of_a_channel_do_not_change_the_correlation(self):
        embedded, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
        found = itrd.correlation(7 * embedded + torch.arange(5), teacher / 3 - 2, alpha=1.5)
        torch.testing.assert_close(found, itrd.correlation(embedded, teacher, alpha=1.5))

    @pytest.mark.parametrize("constant", [0.0, 0.1, -1e3, 1e-12])
    @pytest.mark.parametrize("of_teacher", [False, True])
    def test_a_constant_channel_counts_as_uncorrelated(self, constant, of_teacher):
        """Also where the mean of equal numbers is not that number, for rounding."""
        embedded, teacher = torch.randn(2, 7, 3)
        (teacher if of_teacher else embedded)[:, 1] = constant
        embedded.requires_grad_()
        found = itrd.correlation(embedded, teacher, alpha=1.5)
        others = itrd.correlation(embedded[:, [0, 2]], teacher[:, [0, 2]], alpha=1.5)
        torch.testing.assert_close(found, torch.log2(2**others + 1))
        gradient = torch.autograd.grad(found, embedded)[0]
        assert not gradient[:, 1].any()
        assert gradient[:, [0, 2]].abs().max() < 10

    def test_a_batch_of_one_has_no_gradient(self):
        student, embedded, teacher = (torch.randn(1, 5, requires_grad=True) for _ in range(3))
        found = itrd.loss(student, embedded, teacher, **ITRD)
        assert found.item() == pytest.approx(2 * math.log2(5), abs=1e-5)
        gradients = torch.autograd.grad(found, (student, embedded))
        assert all(gradient.abs().max() < 1e-6 for gradient in gradients)

    def test_large_orders_stay_finite(self):
        embedded, teacher = torch.randn(2, 6, 5)
        assert torch.isfinite(itrd.correlation(embedded, teacher, alpha=500.0))


class TestICKD:
    def test_two_channels(self):
        """Rows (1, 0) of orthogonal channels against (1, 1) / sqrt 2 of equal ones; mean over channels."""
        student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 2, 1, 3)
        half = math.sqrt(0.5)
        torch.testing.assert_close(ickd.loss(student, teacher), torch.tensor((1 - half) ** 2 + half**2))

    def test_scale_of_a_map_does_not_matter(self):
        student, teacher = torch.rand(2, 3, 4, 5, 5)
        torch.testing.assert_close(ickd.loss(7 * student, teacher / 3), ickd.loss(student, teacher))

    def test_a_dead_channel_gets_no_large_gradient(self):
        student, teacher = torch.rand(2, 3, 4, 5, 5)
        student[:, 1] = 0
        gradient = torch.autograd.grad(ickd.loss(student.requires_grad_(), teacher), student)[0]
        assert gradient.abs().max() < 10

    def test_value(self):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = ickd.Adapter(setting(student, teacher))
        embedded = F.batch_norm(F.conv2d(student.stages[1], adapter.embed[0].weight), None, None, training=True)
        torch.testing.assert_close(loss_of(adapter, step(student, teacher)), ickd.loss(embedded, teacher.stages[1]))


class TestWKDF:
    def test_value_of_two_pixels(self):
        """0 and 2 have mean 1 and unbiased variance 2; two channels."""
        student, teacher = torch.tensor([0.0, 2.0]).expand(3, 2, 1, 2), torch.zeros(3, 2, 1, 2)
        parts = wkd_f.terms(student, teacher, grid=1)
        torch.testing.assert_close(parts.mean, torch.tensor(2.0))
        torch.testing.assert_close(parts.std, torch.tensor(2 * (math.sqrt(2 + 1e-5) - math.sqrt(1e-5)) ** 2))
        value = wkd_f.loss(student, teacher, mean_weight=3.0, grid=1)
        torch.testing.assert_close(value, 3 * parts.mean + parts.std)

    def test_a_shift_changes_the_means_alone(self):
        feature_map = torch.randn(2, 3, 8, 8)
        parts = wkd_f.terms(feature_map + 2, feature_map, grid=4)
        torch.testing.assert_close(parts.mean, torch.tensor(12.0))
        torch.testing.assert_close(parts.std, torch.tensor(0.0), atol=1e-8, rtol=0)

    @pytest.mark.parametrize(("side", "grid"), [(8, 2), (8, 3), (7, 4), (7, 2), (5, 4)])
    def test_cells_are_those_of_adaptive_pooling(self, side, grid):
        feature_map = torch.randn(2, 3, side, side, dtype=torch.float64)
        mean, std = wkd_f._moments(feature_map, grid)
        torch.testing.assert_close(mean, F.adaptive_avg_pool2d(feature_map, grid))
        end, start = math.ceil(side / grid), (grid - 1) * side // grid
        first, last = feature_map[..., :end, :end], feature_map[..., start:, start:]
        torch.testing.assert_close(std[..., 0, 0], (first.var(dim=(2, 3)) + 1e-5).sqrt())
        torch.testing.assert_close(std[..., -1, -1], (last.var(dim=(2, 3)) + 1e-5).sqrt())

    @pytest.mark.parametrize(("sides", "cells"), [((4, 4), 3), ((2, 2), 1), ((3, 3), 2), ((5, 5), 4), ((1, 6), 1)])
    def test_a_grid_is_capped_where_cells_would_be_single_pixels(self, sides, cells):
        student, teacher = torch.randn(2, 2, 3, *sides)
        value = wkd_f.loss(student, teacher, mean_weight=2.0, grid=4)
        torch.testing.assert_close(value, wkd_f.loss(student, teacher, mean_weight=2.0, grid=cells))
        assert not torch.isnan(value)

    def test_a_single_pixel_has_a_mean_alone(self):
        student, teacher = torch.randn(2, 3, 1, 1, requires_grad=True), torch.randn(2, 3, 4, 4)
        parts = wkd_f.terms(student, teacher, grid=4)
        torch.testing.assert_close(parts.mean, (student[..., 0, 0] - teacher.mean(dim=(2, 3))).square().sum() / 2)
        assert parts.std == 0
        assert torch.isfinite(torch.autograd.grad(parts.mean + parts.std, student)[0]).all()

    def test_a_constant_map_has_a_finite_gradient(self):
        student = torch.ones(2, 3, 4, 4, requires_grad=True)
        gradient = torch.autograd.grad(wkd_f.loss(student, torch.randn(2, 3, 4, 4), mean_weight=1.0, grid=2), student)
        assert torch.isfinite(gradient[0]).all()

    def test_value_of_the_adapter(self):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = wkd_f.Adapter(setting(student, teacher), mean_weight=3.0, grid=2)
        convolution = adapter.projector[0]
        convolved = F.conv2d(student.stages[1], convolution.weight, convolution.bias)
        projected = F.relu(F.batch_norm(convolved, None, None, training=True))
        expected = wkd_f.loss(projected, teacher.stages[1], mean_weight=3.0, grid=2)
        torch.testing.assert_close(loss_of(adapter, step(student, teacher)), expected)
