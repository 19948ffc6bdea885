"""The composition of methods, scales and standardisation."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from kdcore import catalog, methods, networks, objective
from kdcore.methods import crld, kd, mlkd, wkd_l
from kdcore.objective import BatchContext, LogitTerm, Objective, Term
from kdcore.scales import decouple, decouple_as_fusion_published, pyramid_logits
from kdcore.standardize import standardize
from kdcore.system.errors import UserError
from kdcore.training.random import device_generator
from tests.methods.test_logit_methods import BATCH, SAMPLES

CPU = torch.device("cpu")
WEIGHTS = {"ce_weight": 0.3, "kd_weight": 2.0, "warmup": 0}
REGIONS = {"complementary_weight": 2.0, "decoupling": "sdd"}
LOGIT = {
    **{name: values for name, values in {**SAMPLES, **BATCH}.items() if "-" not in name},
    "mlkd": {"temperature": 4.0, "variant": "as_published"},
    "ctkd": {"t_start": 1.0, "t_range": 20.0, "curriculum": 10, "variant": "instance"},
    "wkd_l": {**SAMPLES["wkd_l"], "cost": "classifier", "sharpen": 1.0, "gamma_decay_from": 0.5},
}


class Case:
    """Two networks, a batch of eight images in two views, and the networks' outputs for them."""

    def __init__(self):
        torch.manual_seed(0)
        self.student, self.teacher = networks.create("resnet8", 10), networks.create("wrn_16_1", 10).eval()
        images, target = torch.randn(2, 8, 3, 16, 16), torch.randint(10, (8,))
        self.target, self.context = target, BatchContext(torch.arange(8), 1, device_generator(0, 1, CPU))
        self.out = [self.student(view) for view in images]
        with torch.no_grad():
            taught = [self.teacher(view) for view in images]
        # An untrained network says the same of every region; a teacher must not, for the weights to matter.
        self.taught = [output._replace(final_map=torch.randn_like(output.final_map)) for output in taught]

    def build(self, method, recipe, **options):
        labels = torch.arange(20) % 10
        goal, self.student = objective.build(
            method, recipe, student=self.student, teacher=self.teacher, labels=labels, image_size=16, batch_size=8,
            epochs=10, **options,
        )  # fmt: skip
        return goal

    def parts(self, method, recipe, **options):
        goal = self.build(method, recipe, **options)
        return goal(self.out[: goal.views], self.taught[: goal.views], self.target, self.context)


@pytest.fixture
def case():
    return Case()


@pytest.mark.parametrize("name", sorted(({*SAMPLES} & {*LOGIT}) - {"ctkd", "wkd_l"}))
def test_global_scale_without_stand_is_the_plain_method(case, name):
    parts = case.parts(name, {**LOGIT[name], **WEIGHTS})
    views = len(catalog.methods()[name].views)
    out, taught = ([output.logits for output in outputs[:views]] for outputs in (case.out, case.taught))
    plain = methods.get(name).loss(*out, *taught, case.target, **LOGIT[name]).mean()
    ce = sum(F.cross_entropy(logits, case.target) for logits in out)
    torch.testing.assert_close(parts.losses[name], plain)
    torch.testing.assert_close(parts.loss, 0.3 * ce + 2.0 * plain)


@pytest.mark.parametrize(
    ("name", "levels", "stand"), list(itertools.product(LOGIT, [(1,), (1, 2), (1, 2, 4), (4,)], [False, True]))
)
def test_every_combination_reaches_every_parameter(case, name, levels, stand):
    parts = case.parts(name, {**LOGIT[name], **WEIGHTS, **REGIONS}, levels=levels, stand=stand)
    parts.loss.backward()
    assert [key for key, p in case.student.named_parameters() if p.grad is None] == []
    assert torch.isfinite(parts.loss)


@pytest.mark.parametrize("name", LOGIT)
def test_a_batch_in_another_order_has_the_same_loss(case, name):
    """The published fusion of SDD and LSKD does not (docs/differences.md)."""
    goal = case.build(name, {**LOGIT[name], **WEIGHTS, **REGIONS}, levels=(1, 2), stand=True)
    first = goal(case.out[: goal.views], case.taught[: goal.views], case.target, case.context)
    order = torch.randperm(8)
    out, taught = (
        [o._replace(logits=o.logits[order], final_map=o.final_map[order]) for o in outputs[: goal.views]]
        for outputs in (case.out, case.taught)
    )
    context = BatchContext(order, 1, case.context.generator)
    torch.testing.assert_close(goal(out, taught, case.target[order], context).loss, first.loss)


def test_regions_and_standardisation_by_hand(case):
    heads = case.student.classifier, case.teacher.classifier
    s, t = (pyramid_logits(o.final_map, h, (1, 2)) for o, h in zip((case.out[0], case.taught[0]), heads, strict=True))
    per_region = kd.loss(standardize(s), standardize(t), temperature=4.0)
    right_global = t[:, :1].argmax(-1) == case.target[:, None]
    right_region = t.argmax(-1) == case.target[:, None]
    expected = ((1 + (right_global != right_region).float()) * per_region).mean()
    parts = case.parts("kd", {"temperature": 4.0, **WEIGHTS, **REGIONS}, levels=(1, 2), stand=True)
    torch.testing.assert_close(parts.losses["kd"], expected)


def test_levels_without_the_whole_image_weigh_by_the_networks_own_prediction(case):
    heads = case.student.classifier, case.teacher.classifier
    s, t = (pyramid_logits(o.final_map, h, (2,)) for o, h in zip((case.out[0], case.taught[0]), heads, strict=True))
    target = case.target
    disagree = (case.taught[0].logits.argmax(-1) == target)[:, None] != (t.argmax(-1) == target[:, None])
    expected = ((1 + disagree.float()) * kd.loss(s, t, temperature=4.0)).mean()
    parts = case.parts("kd", {"temperature": 4.0, **WEIGHTS, **REGIONS}, levels=(2,))
    torch.testing.assert_close(parts.losses["kd"], expected)


def test_weights_of_regions_are_those_of_the_recipe(case):
    def loss(**weights):
        recipe = {"temperature": 4.0, **WEIGHTS, **REGIONS, **weights}
        return case.parts("kd", recipe, levels=(1, 2, 4)).losses["kd"]

    both, consistent = loss(), loss(complementary_weight=0.0)
    complementary = loss(consistent_weight=0.0)
    assert complementary > 0 < consistent
    torch.testing.assert_close(complementary, both - consistent)
    torch.testing.assert_close(loss(consistent_weight=1.0), both, rtol=0, atol=0)
    assert loss(complementary_weight=0.0, consistent_weight=0.0) == 0


def test_losses_across_a_batch_apply_to_each_region_and_are_averaged(case):
    recipe = {"temperature": 4.0, "variant": "as_published", **WEIGHTS}
    parts = case.parts("mlkd", recipe, levels=(1, 2), stand=True)
    heads = [case.student.classifier] * 2 + [case.teacher.classifier] * 2
    regions = [pyramid_logits(o.final_map, h, (1, 2)) for o, h in zip((*case.out, *case.taught), heads, strict=True)]
    apart = [mlkd.loss(*(r[:, n] for r in regions), temperature=4.0, standardize=True) for n in range(5)]
    torch.testing.assert_close(parts.losses["mlkd"], torch.stack(apart).mean())


def test_two_views_of_single_samples_are_decoupled_by_the_weak_one(case):
    """The confidences that CRLD asks for are those of plain logits, whatever the stand."""
    conditions = {"temperature": 4.0, "tau_weak": 0.3, "tau_strong": 0.2, "within_weight": 2.0, "cross_weight": 0.5}
    parts = case.parts("crld", {**conditions, **WEIGHTS, **REGIONS}, levels=(1, 2), stand=True)
    heads = [case.student.classifier] * 2 + [case.teacher.classifier] * 2
    regions = [pyramid_logits(o.final_map, h, (1, 2)) for o, h in zip((*case.out, *case.taught), heads, strict=True)]
    per_region = crld.loss(*regions, **conditions, standardize=True)
    assert 0 < (per_region == 0).sum() < per_region.numel()
    torch.testing.assert_close(parts.losses["crld"], decouple(per_region, regions[2], case.target))


def test_a_cost_between_classes_is_that_of_every_region(case):
    parts = case.parts("wkd_l", {**LOGIT["wkd_l"], **WEIGHTS, **REGIONS}, levels=(1, 2), stand=True)
    heads = case.student.classifier, case.teacher.classifier
    s, t = (pyramid_logits(o.final_map, h, (1, 2)) for o, h in zip((case.out[0], case.taught[0]), heads, strict=True))
    rows = F.normalize(heads[1].weight.detach())
    inputs = standardize(s), standardize(t), case.target[:, None].expand(8, 5), 1 - (rows @ rows.T - 1).exp()
    per_region = wkd_l.loss(*inputs, **SAMPLES["wkd_l"])
    torch.testing.assert_close(parts.losses["wkd_l"], decouple(per_region, t, case.target))


def test_two_views_have_two_cross_entropies(case):
    parts = case.parts("mlkd", {"temperature": 4.0, "variant": "as_published", **WEIGHTS})
    expected = sum(F.cross_entropy(out.logits, case.target) for out in case.out)
    torch.testing.assert_close(parts.ce, expected)
    torch.testing.assert_close(parts.task, 0.3 * expected)


def test_alone_it_is_cross_entropy(case):
    parts = Objective(1.0)([case.out[0]], [], case.target)
    torch.testing.assert_close(parts.loss, F.cross_entropy(case.out[0].logits, case.target))
    assert parts.distillation is None


def test_terms_of_a_sum_keep_their_own_weights_and_warm_up(case):
    recipe = {
        "ce_weight": 0.5,
        "at.p": 2,
        "at.kd_weight": 7.0,
        "at.warmup": 0,
        **{f"kd.{key}": value for key, value in {"temperature": 3.0, "kd_weight": 2.0, "warmup": 4, **REGIONS}.items()},
    }
    parts = case.parts("at+kd", recipe, levels=(1, 2), stand=True)
    at_alone = case.parts("at", {"p": 2, **WEIGHTS}).losses["at"]
    kd_alone = case.parts("kd", {"temperature": 3.0, **WEIGHTS, **REGIONS}, levels=(1, 2), stand=True).losses["kd"]
    torch.testing.assert_close(parts.loss, 0.5 * parts.ce + 7.0 * at_alone + 2.0 / 4 * kd_alone)


def test_fusion_as_published_reads_region_major_rows_as_sample_major_ones():
    """Two samples, three regions: rows 0 to 2 are compared with sample 0 though row 1 is sample 1's."""
    target = torch.tensor([0, 0])
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    teacher = torch.tensor([[right, right, wrong], [wrong, right, right]])
    per_region = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    # Rows (region by region): right wrong right | right wrong right; sample 0 is right, sample 1 wrong.
    agrees = [1.0, 2.0, 4.0]  # rows 0 and 2 of the first three, row 4 of the last three
    differs = [8.0, 16.0, 32.0]
    expected = torch.tensor(sum(agrees) / 3 + sum(differs) / 3)
    torch.testing.assert_close(decouple_as_fusion_published(per_region, teacher, target), expected)


def test_fusion_as_published_can_be_chosen(case):
    recipe = {"temperature": 4.0, **WEIGHTS, **REGIONS, "decoupling": "fusion_as_published"}
    published = case.parts("kd", recipe, levels=(1, 2), stand=True).losses["kd"]
    ours = case.parts("kd", {**recipe, "decoupling": "sdd"}, levels=(1, 2), stand=True).losses["kd"]
    assert not torch.isclose(published, ours)


@pytest.mark.parametrize("levels", [(1,), (1, 2)])
@pytest.mark.parametrize("wrong", [lambda losses: losses.mean(), lambda losses: losses[..., None].expand(-1, -1, 10)])
def test_a_loss_of_another_shape_is_refused(case, monkeypatch, levels, wrong):
    """A mean over the batch would turn the weights of regions into one factor, without a word."""
    original = kd.loss
    monkeypatch.setattr(kd, "loss", lambda *logits, **keywords: wrong(original(*logits, **keywords)))
    shape = rf"for logits \(8, {sum(level**2 for level in levels)}, 10\), and must have \(8, "
    with pytest.raises(UserError, match=f"method kd: its loss has shape .* {shape}"):
        case.parts("kd", {**LOGIT["kd"], **WEIGHTS, **REGIONS}, levels=levels)


def test_regions_need_classifiers():
    with pytest.raises(ValueError, match="need the classifiers"):
        LogitTerm("kd", {"temperature": 4.0, **WEIGHTS}, levels=(1, 2))


def test_adapters_need_a_setting():
    with pytest.raises(ValueError, match="crd needs a setting"):
        Term("crd", WEIGHTS)


@pytest.mark.parametrize(
    ("warmup", "epoch", "share"), [(0, 1, 1.0), (20, 1, 0.05), (20, 10, 0.5), (20, 20, 1), (20, 99, 1)]
)
def test_warm_up(warmup, epoch, share):
    term = Term("kd", {"temperature": 4.0, **WEIGHTS, "warmup": warmup})
    assert term.weight(BatchContext(torch.arange(1), epoch, torch.Generator())) == pytest.approx(2.0 * share)


@pytest.mark.parametrize(("method", "recipe"), [
    ("kd", {"temperature": 4.0, **WEIGHTS, "warmup": 3}),
    ("ctkd", {**LOGIT["ctkd"], **WEIGHTS}),
    ("vid", {"initial_variance": 5.0, "variant": "trained", **WEIGHTS}),
])  # fmt: skip
def test_methods_that_need_the_moment_say_so(case, method, recipe):
    goal = case.build(method, recipe)
    with pytest.raises(ValueError, match=f"{method} depends on epoch, images or a generator"):
        goal(case.out[:1], case.taught[:1], case.target)
