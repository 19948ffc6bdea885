"""Losses of feature maps and their adapters: closed forms, values by hand, and properties."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdcore.methods import at, cc, crd, fitnet, kdsvd, nst, ofd, pkt, reviewkd, rkd, sp, vid
from kdcore.methods._stages import matched, same_size
from tests.methods.inputs import loss_of, maps, output, setting, step

MAPS = [(at, {"p": 2}), (sp, {}), (nst, {}), (reviewkd, {}), (kdsvd, {"k": 1})]
VECTORS = [(rkd, {"distance_weight": 25.0, "angle_weight": 50.0}), (pkt, {}), (cc, {}), (fitnet, {})]


class TestStages:
    def test_unequal_numbers_match_from_the_deep_end(self):
        student, teacher = maps(1, 2, 3), maps(4, 5, 6, 7, 8)
        own, other = matched(student, teacher)
        assert [m.shape[1] for m in own] == [2, 3]
        assert [m.shape[1] for m in other] == [7, 8]

    def test_larger_map_is_pooled(self):
        large, small = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4)
        for pair in (same_size(large, small), same_size(small, large)):
            assert all(m.shape[2:] == (4, 4) for m in pair)
        torch.testing.assert_close(same_size(large, small)[0], F.avg_pool2d(large, 2))


EVERY = pytest.mark.parametrize(("method", "options"), MAPS + VECTORS, ids=lambda x: getattr(x, "__name__", ""))


def draw(method, batch=6):
    """Random inputs of a method's loss for one network: maps of three stages, or one tensor of vectors."""
    return maps(3, 5, 7, batch=batch) if method in dict(MAPS) else [torch.randn(batch, 5)]


def measure(method, student, teacher, options):
    """The loss of tensors as `draw` gives them, and its gradients, None for maps that the method does not use."""
    own = [tensor.clone().requires_grad_() for tensor in student]
    inputs = (own, teacher) if method in dict(MAPS) else (*own, *teacher)
    value = method.loss(*inputs, **options)
    return value.detach(), torch.autograd.grad(value, own, allow_unused=True)


@EVERY
def test_equal_inputs_have_no_loss_and_a_finite_gradient(method, options):
    teacher = draw(method)
    value, gradients = measure(method, teacher, teacher, options)
    torch.testing.assert_close(value, torch.tensor(0.0), atol=1e-5 if method in dict(MAPS) else 1e-6, rtol=0)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@EVERY
def test_a_gradient_step_lowers_the_loss(method, options):
    torch.manual_seed(0)
    student, teacher = draw(method), draw(method)
    start, gradients = measure(method, student, teacher, options)
    rate = 0.01 * start / sum(g.square().sum() for g in gradients if g is not None)
    moved = [x if g is None else x - rate * g for x, g in zip(student, gradients, strict=True)]
    assert measure(method, moved, teacher, options)[0] < start


@pytest.mark.parametrize(
    "adapter", [(vid, {"initial_variance": 5.0, "variant": "trained"}), (ofd, {"variant": "frozen"})]
)
def test_a_gradient_step_lowers_the_loss_behind_adapters(adapter):
    torch.manual_seed(0)
    method, options = adapter
    student, teacher = output(maps(2, 3, 4)), output(maps(5, 6, 7))
    built = method.Adapter(setting(student, teacher), **options)
    start = built(step(student, teacher))
    parameters = [p for p in built.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(start, parameters)
    rate = 0.01 * start.detach() / sum(g.square().sum() for g in gradients)
    with torch.no_grad():
        torch._foreach_sub_(parameters, [rate * gradient for gradient in gradients])
    assert built(step(student, teacher)) < start


@EVERY
@pytest.mark.parametrize("batch", [1, 4])
def test_dead_inputs_stay_finite(method, options, batch):
    """All zero, as behind dead ReLUs; far apart; and a batch of one."""
    alive, far = draw(method, batch), [1e3 * x for x in draw(method, batch)]
    dead = [torch.zeros_like(x) for x in alive]
    for student, teacher in ((alive, dead), (dead, alive), (dead, dead), (alive, alive), (far, [-x for x in far])):
        value, gradients = measure(method, student, teacher, options)
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


class TestDistill:
    """Which maps a method compares: every stage and network here has another one."""

    student, teacher = output(maps(2, 3, 4)), output(maps(5, 6, 7, 8))
    later = student.stages[1:], teacher.stages[-2:]

    @pytest.mark.parametrize(("method", "options"), [(at, {"p": 2}), (nst, {}), (kdsvd, {"k": 1})])
    def test_every_stage_after_the_stem(self, method, options):
        expected = method.loss(*self.later, **options)
        torch.testing.assert_close(method.distill(self.student, self.teacher, **options), expected)

    def test_last_stage(self):
        expected = sp.loss([self.student.stages[2]], [self.teacher.stages[3]])
        torch.testing.assert_close(sp.distill(self.student, self.teacher), expected)

    @pytest.mark.parametrize(("method", "options"), [(pkt, {}), (rkd, {"distance_weight": 2.0, "angle_weight": 3.0})])
    def test_pooled_features(self, method, options):
        expected = method.loss(self.student.pooled, self.teacher.pooled, **options)
        torch.testing.assert_close(method.distill(self.student, self.teacher, **options), expected)


def test_weights_of_rkd():
    student, teacher = torch.randn(2, 5, 4)
    by_distance, by_angle = rkd.terms(student, teacher)
    expected = 2 * by_distance + 3 * by_angle
    torch.testing.assert_close(rkd.loss(student, teacher, distance_weight=2.0, angle_weight=3.0), expected)


def test_an_image_with_dead_maps_gets_no_gradient():
    """Instead of one of 1e10, which the usual normalisation of a zero vector gives."""
    teacher = maps(3, 5, 7)
    for method, options in MAPS:
        student = [m.clone() for m in maps(3, 5, 7)]
        for m in student:
            m[0] = 0
        own = [m.requires_grad_() for m in student]
        gradients = torch.autograd.grad(method.loss(own, teacher, **options), own, allow_unused=True)
        assert max(g.abs().max() for g in gradients if g is not None) < 10, method.__name__


class TestAT:
    def test_scale_of_the_maps_does_not_matter(self):
        features = maps(3, 5)
        torch.testing.assert_close(at.loss([5 * m for m in features], features, p=2), torch.tensor(0.0))

    def test_opposite_attention(self):
        """Two disjoint unit maps over 2 pixels differ by 1 in each: mean square 1."""
        student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        torch.testing.assert_close(at.loss([student], [teacher], p=2), torch.tensor(1.0))


class TestFitNet:
    def test_squared_difference(self):
        torch.testing.assert_close(fitnet.loss(torch.zeros(2, 3), torch.full((2, 3), 2.0)), torch.tensor(4.0))

    @pytest.mark.parametrize(("own", "other"), [(8, 8), (16, 8), (8, 16), (8, 7), (7, 8), (28, 8)])
    def test_sizes(self, own, other):
        student, teacher = (output([torch.rand(2, 3, n, n)] * 3) for n in (own, other))
        adapter = fitnet.Adapter(setting(student, teacher), hint_layer=2)
        assert adapter(step(student, teacher)) > 0

    def test_value(self):
        student, teacher = output(maps(2, 3, 4)), output(maps(5, 6, 7))
        adapter = fitnet.Adapter(setting(student, teacher), hint_layer=1)
        convolution, norm = adapter.regressor[0], adapter.regressor[1]
        regressed = F.relu(norm(F.conv2d(student.stages[1], convolution.weight, convolution.bias)))
        torch.testing.assert_close(adapter(step(student, teacher)), F.mse_loss(regressed, teacher.stages[1]))

    def test_a_network_with_fewer_stages_gives_its_last(self):
        student, teacher = output(maps(1, 2)), output(maps(3, 4, 5, 6))
        adapter = fitnet.Adapter(setting(student, teacher), hint_layer=2)
        assert adapter.regressor[0].in_channels == 2
        assert adapter.regressor[0].out_channels == 5


class TestRKD:
    def test_distances_of_a_line(self):
        """Points 0, 1, 3: distances 1, 3, 2 twice each, mean 2."""
        found = rkd.distances(torch.tensor([[0.0], [1.0], [3.0]]), squared=False, eps=1e-12)
        expected = torch.tensor([[0.0, 0.5, 1.5], [0.5, 0.0, 1.0], [1.5, 1.0, 0.0]])
        torch.testing.assert_close(found, expected)

    def test_angles_of_a_right_triangle(self):
        found = rkd.angles(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        assert found[0, 1, 2] == 0
        torch.testing.assert_close(found[1, 0, 2], torch.tensor(math.sqrt(0.5)))

    def test_turning_and_stretching_change_nothing(self):
        features = torch.randn(5, 2, dtype=torch.float64)
        turned = 3 * features @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) + 7
        torch.testing.assert_close(
            rkd.loss(turned, features, distance_weight=1, angle_weight=1), torch.tensor(0.0, dtype=torch.float64)
        )


def test_pkt_of_two_samples():
    """Equal vectors give each sample (1/2, 1/2), opposite ones (1, 0)."""
    teacher, student = torch.tensor([[1.0], [-1.0]]).double(), torch.tensor([[1.0], [1.0]]).double()
    assert pkt.loss(student, teacher).item() == pytest.approx(2 * math.log(2) / 4, rel=1e-5)


def test_sp_of_two_samples():
    """Rows (1, 0) of orthogonal samples against (1, 1) / sqrt 2 of equal ones."""
    student, teacher = torch.eye(2).view(2, 2, 1, 1), torch.ones(2, 2, 1, 1)
    half = math.sqrt(0.5)
    torch.testing.assert_close(sp.loss([student], [teacher]), torch.tensor(((1 - half) ** 2 + half**2) / 2))


def test_nst_of_one_channel_each():
    """Kernel means 1, 1 and the squared cosine: of orthogonal channels 0."""
    student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(nst.loss([student], [teacher]), torch.tensor(2.0))


class TestVID:
    def test_likelihood_of_a_gaussian(self):
        log_scale = torch.zeros(3)
        spread = math.log(2) + 1e-5
        got = vid.loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0), log_scale)
        assert got.item() == pytest.approx(0.5 * (4 / spread + math.log(spread)), rel=1e-6)

    def test_best_variance_is_the_squared_error(self):
        """There the loss is least and its gradient zero: 0.5 (1 + log v)."""
        best = torch.tensor([2.0]).expm1().log().requires_grad_()
        error = torch.full((1, 1, 2, 2), math.sqrt(2.0))
        value = vid.loss(torch.zeros_like(error), error, best, eps=0.0)
        assert value.item() == pytest.approx(0.5 * (1 + math.log(2)), rel=1e-5)
        torch.testing.assert_close(torch.autograd.grad(value, best)[0], torch.zeros(1), atol=1e-6, rtol=0)

    def test_value(self):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = vid.Adapter(setting(student, teacher), initial_variance=5.0, variant="trained")
        mean = student.stages[1]
        for i in (0, 2, 4):
            mean = F.conv2d(mean if i == 0 else F.relu(mean), adapter.regressors[0][i].weight)
        expected = vid.loss(mean, teacher.stages[1], adapter.log_scales[0])
        torch.testing.assert_close(adapter(step(student, teacher)), expected)

    @pytest.mark.parametrize("initial", [1e-6, 1e-5, 1e-3, 5.0, 800.0, 1e6])
    def test_any_initial_variance(self, initial):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = vid.Adapter(setting(student, teacher), initial_variance=initial, variant="trained")
        wanted = torch.full((5,), max(initial, vid.EPSILON))
        torch.testing.assert_close(vid.variance(adapter.log_scales[0], vid.EPSILON), wanted, rtol=1e-4, atol=1e-9)

    @pytest.mark.parametrize(("variant", "trained"), [("trained", True), ("as_published", False)])
    def test_variances(self, variant, trained):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = vid.Adapter(setting(student, teacher), initial_variance=5.0, variant=variant)
        torch.testing.assert_close(vid.variance(adapter.log_scales[0], vid.EPSILON), torch.full((5,), 5.0))
        adapter(step(student, teacher)).backward()
        assert (adapter.log_scales[0].grad is not None) == trained
        assert all(p.grad is not None for p in adapter.regressors.parameters())


class TestOFD:
    def test_margin_of_a_centred_channel(self):
        """E[x | x < 0] of N(0, s^2) is -s sqrt(2 / pi)."""
        torch.testing.assert_close(
            ofd.margin(torch.tensor([2.0]), torch.zeros(1)), torch.tensor([-2 * math.sqrt(2 / math.pi)])
        )

    def test_margin_where_negatives_are_rare_or_the_channel_is_constant(self):
        found = ofd.margin(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([5.0, 1.0, -1.0, 0.0]))
        torch.testing.assert_close(found, torch.tensor([-3.0, 0.0, -1.0, 0.0]))

    def test_negative_responses_below_the_margin_cost_nothing(self):
        student, teacher = torch.tensor([-9.0, -0.5, 1.0]).view(1, 3, 1, 1), torch.full((1, 3, 1, 1), -7.0)
        margins = torch.full((3,), -1.0)
        torch.testing.assert_close(ofd.stage_loss(student, teacher, margins), torch.tensor(0.5**2 + 2.0**2))

    def test_student_equal_to_what_is_wanted_costs_nothing(self):
        teacher, margins = torch.randn(2, 3, 4, 4), torch.full((3,), -1.0)
        student = torch.maximum(teacher, margins[:, None, None]).requires_grad_()
        value = ofd.stage_loss(student, teacher, margins)
        assert value == 0
        assert not torch.autograd.grad(value, student)[0].any()

    def test_value(self):
        """The connectors' outputs of the student's pre-activations against the teacher's, and its norms' margins."""
        student, teacher = output(maps(2, 3, 4)), output(maps(5, 6, 7, 8))
        context = setting(student, teacher)
        for i, norm in enumerate(context.teacher_norms):
            nn.init.constant_(norm.bias, i / 10)
        adapter = ofd.Adapter(context, variant="frozen")
        connected = [connector(x) for connector, x in zip(adapter.connectors, student.preacts[1:], strict=True)]
        margins = [ofd.margin(norm.weight, norm.bias) for norm in context.teacher_norms[-2:]]
        expected = ofd.loss(connected, teacher.preacts[-2:], margins)
        torch.testing.assert_close(adapter(step(student, teacher)), expected)

    def test_earlier_stages_weigh_less(self):
        student = [torch.ones(1, 1, 1, 1)] * 3
        teacher = [torch.zeros(1, 1, 1, 1)] * 3
        torch.testing.assert_close(ofd.loss(student, teacher, [torch.zeros(1)] * 3), torch.tensor(1.75))


class TestReviewKD:
    def test_levels_below_the_size_count(self):
        """A constant difference of 2 costs 4 at every level, so 4 whatever the weights."""
        for size in (1, 2, 4, 8):
            student = torch.zeros(2, 3, size, size)
            torch.testing.assert_close(reviewkd.loss([student], [student + 2]), torch.tensor(4.0))

    def test_a_checkerboard_counts_at_full_size_alone(self):
        board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).view(1, 1, 8, 8)
        expected = torch.tensor(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))
        torch.testing.assert_close(reviewkd.loss([board], [torch.zeros(1, 1, 8, 8)]), expected)

    @pytest.mark.parametrize("preact", [False, True])
    def test_value(self, preact):
        """Two stages and the pooled features, fused by hand from deep to shallow."""
        torch.manual_seed(0)
        student, teacher = output(maps(2, 3, 4)), output(maps(5, 6, 7))
        adapter = reviewkd.Adapter(setting(student, teacher), mid_channels=3, student_preact=preact)
        inputs = [*(student.preacts if preact else student.stages)[1:], student.pooled[:, :, None, None]]
        wanted = [*teacher.preacts[1:], teacher.pooled[:, :, None, None]]
        fused, deeper = [], None
        for fusion, own, other in reversed(list(zip(adapter.fusions, inputs, wanted, strict=True))):
            here = fusion.reduce(own)
            if deeper is not None:
                deeper = F.interpolate(deeper, here.shape[2:], mode="nearest")
                first, second = fusion.attend(torch.cat([here, deeper], dim=1)).split(1, dim=1)
                here = here * first + deeper * second
            deeper = F.interpolate(here, other.shape[2:], mode="nearest")
            fused.insert(0, fusion.expand(deeper))
        expected = reviewkd.loss(fused, wanted)
        torch.testing.assert_close(adapter(step(student, teacher)), expected)

    def test_fused_maps_have_the_teachers_shapes(self):
        student, teacher = output(maps(2, 3, 4, size=8)), output(maps(5, 6, 7, 8, size=16))
        adapter = reviewkd.Adapter(setting(student, teacher), mid_channels=3, student_preact=True)
        adapter(step(student, teacher)).backward()
        assert all(p.grad is not None for p in adapter.parameters())
        assert adapter.fusions[0].reduce[0].out_channels == 3


class TestKDSVD:
    def test_vectors_of_a_known_matrix(self):
        """Singular values 3 and 2 along the first and second column."""
        matrix = torch.diag(torch.tensor([3.0, 2.0])).view(1, 1, 2, 2)
        own, other = kdsvd.stage_vectors(matrix, matrix, 1)
        torch.testing.assert_close(own.abs(), torch.tensor([[[1.0], [0.0]]]))
        torch.testing.assert_close(own, other)

    def test_gradient_of_the_vectors(self):
        matrices = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)

        def projections(x):
            """What does not depend on signs."""
            vectors = kdsvd._RightVectors.apply(x, 2)
            return vectors.square() * torch.arange(8, dtype=torch.float64).view(4, 2)

        assert torch.autograd.gradcheck(projections, (matrices,))

    def test_more_vectors_than_a_stage_has(self):
        """As many as the smallest stage has, here 2."""
        student, teacher = maps(3, 5, size=4), maps(4, 6, size=4)
        expected = kdsvd.loss(student, teacher, k=2)
        torch.testing.assert_close(kdsvd.loss(student, teacher, k=9), expected)

    def test_equal_singular_values_have_a_finite_gradient(self):
        matrices = torch.eye(4)[None].clone().requires_grad_()
        kdsvd._RightVectors.apply(matrices, 2).square().sum().backward()
        assert torch.isfinite(matrices.grad).all()


class TestCC:
    def test_three_samples(self):
        student, teacher = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, -3.0]]), torch.zeros(3, 2)
        torch.testing.assert_close(cc.loss(student, teacher), torch.tensor((2.0 + 3.0) / 2))

    def test_value(self):
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        adapter = cc.Adapter(setting(student, teacher), embedding=4)
        expected = cc.loss(adapter.student(student.pooled), adapter.teacher(teacher.pooled))
        torch.testing.assert_close(adapter(step(student, teacher)), expected)


class TestCRD:
    def adapter(self, **options):
        torch.manual_seed(0)
        student, teacher = output(maps(2, 3)), output(maps(4, 5))
        values = {"temperature": 0.07, "momentum": 0.5, "negatives": 8, "embedding": 4, **options}
        return crd.Adapter(setting(student, teacher), **values), step(student, teacher)

    def test_uniform_scores(self):
        """Every score is 1 / N: log of 1 / (1 + K) for the positive, of K / (1 + K) for each of K negatives."""
        embedded, memory = torch.zeros(2, 3), torch.zeros(10, 3)
        drawn = torch.tensor([[0, 1, 2, 3], [1, 0, 5, 6]])
        found = crd.contrast(embedded, memory, drawn, torch.tensor(float("nan")), temperature=1.0, eps=0.0)
        assert found.z == 10
        assert found.loss.item() == pytest.approx(-(math.log(1 / 4) + 3 * math.log(3 / 4)), rel=1e-6)

    def test_gathering_and_multiplying_agree(self):
        embedded, memory = F.normalize(torch.randn(3, 4).double()), F.normalize(torch.randn(90, 4).double())
        drawn = torch.randint(90, (3, 40))
        z = torch.tensor(2.0).double()
        together = crd.contrast(embedded, memory, drawn, z, temperature=0.1).likeness
        few = crd.contrast(embedded, memory, drawn[:, :5], z, temperature=0.1).likeness
        torch.testing.assert_close(few, together[:, :5])

    def test_negatives_are_of_other_classes_and_reach_all_of_them(self):
        labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0])
        others = crd.Others(labels)
        drawn = others.draw(torch.tensor([0, 1, 2]), 500, torch.Generator().manual_seed(0))
        for row, own in zip(drawn, (0, 1, 2), strict=True):
            assert set(row.tolist()) == {i for i, label in enumerate(labels.tolist()) if label != own}

    def test_memories_take_up_the_batch_and_nothing_else(self):
        adapter, batch = self.adapter()
        before = {name: value.clone() for name, value in adapter.named_buffers()}
        loss_of(adapter, batch).backward()
        seen = batch.index.tolist()
        for name in ("memory_student", "memory_teacher"):
            memory = adapter.get_buffer(name)
            changed = (memory != before[name]).any(dim=1).nonzero().flatten().tolist()
            assert changed == seen
            torch.testing.assert_close(memory[seen].norm(dim=1), torch.ones(len(seen)))
        assert before["z_student"].isnan()
        assert adapter.z_student > 0

    def test_values_of_two_steps(self):
        """Against `loss` and `remembered`, each network scored against the other's memory."""
        adapter, batch = self.adapter()
        memories = [adapter.memory_student.clone(), adapter.memory_teacher.clone()]
        z = tuple(torch.tensor(math.nan) for _ in range(2))
        embedded = [
            F.normalize(layer(out.pooled))
            for layer, out in ((adapter.student, batch.student), (adapter.teacher, batch.teacher))
        ]
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            negatives = adapter.others.draw(batch.target, 8, generator)
            drawn = torch.cat([batch.index[:, None], negatives], dim=1)
            expected = crd.loss(*embedded, tuple(memories), drawn, z, temperature=0.07)
            torch.testing.assert_close(loss_of(adapter, batch), expected)
            z = adapter.z_student.clone(), adapter.z_teacher.clone()
            for memory, features in zip(memories, embedded, strict=True):
                memory[batch.index] = crd.remembered(memory[batch.index], features.detach(), 0.5)
            torch.testing.assert_close(adapter.memory_student, memories[0])
            torch.testing.assert_close(adapter.memory_teacher, memories[1])

    def test_a_gradient_step_lowers_the_loss(self):
        torch.manual_seed(0)
        student, teacher = F.normalize(torch.randn(4, 6)), F.normalize(torch.randn(4, 6))
        memories = F.normalize(torch.randn(20, 6)), F.normalize(torch.randn(20, 6))
        drawn, z = torch.randint(20, (4, 9)), (torch.tensor(10.0), torch.tensor(10.0))
        own = student.clone().requires_grad_()
        value = crd.loss(own, teacher, memories, drawn, z, temperature=0.5)
        moved = own - 0.01 * torch.autograd.grad(value, own)[0]
        assert crd.loss(moved, teacher, memories, drawn, z, temperature=0.5) < value

    def test_constants_are_set_once(self):
        adapter, batch = self.adapter()
        loss_of(adapter, batch)
        first = adapter.z_student.clone(), adapter.z_teacher.clone()
        loss_of(adapter, batch)
        assert (adapter.z_student, adapter.z_teacher) == first
