"""The composition of method, scales and standardisation."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from kdcore import methods, networks
from kdcore.methods import kd
from kdcore.objective import Objective
from kdcore.scales import pyramid_logits
from kdcore.standardize import standardize
from tests.test_methods import LOGIT

WEIGHTS = {"ce_weight": 0.3, "kd_weight": 2.0, "warmup": 0, "complementary_weight": 2.0}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    student, teacher = networks.create("resnet8", 10), networks.create("wrn_16_1", 10).eval()
    images, target = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    with torch.no_grad():
        taught = teacher(images)
    return student, student(images), taught, target, (student.classifier, teacher.classifier)


def parts(batch, method, recipe, *, epoch=1, **options):
    _, out, taught, target, heads = batch
    return Objective(method, recipe, heads=heads, **options)(out, taught, target, epoch=epoch)


@pytest.mark.parametrize("name", LOGIT)
def test_global_scale_without_stand_is_the_plain_method(batch, name):
    _, out, taught, target, _ = batch
    terms = parts(batch, name, {**LOGIT[name], **WEIGHTS})
    plain = methods.get(name).loss(out.logits, taught.logits, target, **LOGIT[name]).mean()
    ce = F.cross_entropy(out.logits, target)
    torch.testing.assert_close(terms.kd, plain)
    torch.testing.assert_close(terms.loss, 0.3 * ce + 2.0 * plain)


@pytest.mark.parametrize(
    ("name", "levels", "stand"), list(itertools.product(LOGIT, [(1, 2), (1, 2, 4), (4,)], [False, True]))
)
def test_every_combination_reaches_every_parameter(batch, name, levels, stand):
    student = batch[0]
    terms = parts(batch, name, {**LOGIT[name], **WEIGHTS}, levels=levels, stand=stand)
    terms.loss.backward()
    assert [key for key, p in student.named_parameters() if p.grad is None] == []
    assert torch.isfinite(terms.loss)


def test_regions_and_standardisation_by_hand(batch):
    _, out, taught, target, (head_s, head_t) = batch
    s, t = (pyramid_logits(o.final_map, h, (1, 2)) for o, h in ((out, head_s), (taught, head_t)))
    per_region = kd.loss(standardize(s), standardize(t), temperature=4.0)
    right_global = t[:, :1].argmax(-1) == target[:, None]
    right_region = t.argmax(-1) == target[:, None]
    expected = ((1 + (right_global != right_region).float()) * per_region).mean()
    terms = parts(batch, "kd", {"temperature": 4.0, **WEIGHTS}, levels=(1, 2), stand=True)
    torch.testing.assert_close(terms.kd, expected)


def test_levels_without_the_whole_image_weigh_by_the_networks_own_prediction(batch):
    _, out, taught, target, (head_s, head_t) = batch
    s, t = (pyramid_logits(o.final_map, h, (2,)) for o, h in ((out, head_s), (taught, head_t)))
    disagree = (taught.logits.argmax(-1) == target)[:, None] != (t.argmax(-1) == target[:, None])
    expected = ((1 + disagree.float()) * kd.loss(s, t, temperature=4.0)).mean()
    terms = parts(batch, "kd", {"temperature": 4.0, **WEIGHTS}, levels=(2,))
    torch.testing.assert_close(terms.kd, expected)


def test_vanilla_is_cross_entropy_alone(batch):
    _, out, _, target, _ = batch
    terms = parts(batch, None, {"ce_weight": 1.0})
    torch.testing.assert_close(terms.loss, F.cross_entropy(out.logits, target))
    assert terms.kd == 0


def test_feature_method(batch):
    terms = parts(batch, "at", {"p": 2, **WEIGHTS})
    assert terms.kd > 0


def test_regions_need_classifiers():
    with pytest.raises(ValueError, match="need the classifiers"):
        Objective("kd", {"temperature": 4.0, **WEIGHTS}, levels=(1, 2))


@pytest.mark.parametrize(
    ("warmup", "epoch", "share"), [(0, 1, 1.0), (20, 1, 0.05), (20, 10, 0.5), (20, 20, 1), (20, 99, 1)]
)
def test_warm_up(warmup, epoch, share):
    objective = Objective("kd", {"temperature": 4.0, **WEIGHTS, "warmup": warmup})
    assert objective.kd_weight(epoch) == pytest.approx(2.0 * share)
