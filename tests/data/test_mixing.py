"""Mixed images: those of timm, drawn by seed, epoch and batch; and what methods and cross-entropy make of them."""

import pytest
import torch
import torch.nn.functional as F

from kdcore import catalog
from kdcore.data import mixing
from kdcore.data.feed import Feed
from kdcore.data.sources import digits
from kdcore.matrix.cell import Cell
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.train_section import Train
from kdcore.objective import Objective
from kdcore.system.errors import UserError
from kdcore.training import loop, torchrun
from kdcore.training.teacher_outputs import Live, prepare
from tests.train import CPU, as_card, card, training_settings

CLASSES = 5


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=2)


def batch(count=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(CLASSES, (count,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("share", "middle"), [
    (0.3, None), (0.9, None), (0.4, (8, 8)), (0.75, (0, 15)), (0.999, (3, 3)), (0.0, (7, 9)),
])  # fmt: skip
def test_images_and_labels_are_those_of_timm(monkeypatch, share, middle, smoothing):
    timm = pytest.importorskip("timm.data.mixup")
    drawn = iter(middle or ())
    monkeypatch.setattr(timm.np.random, "randint", lambda *_, **__: next(drawn))
    theirs = timm.Mixup(label_smoothing=smoothing, num_classes=CLASSES)
    theirs._params_per_batch = lambda: (share, middle is not None)
    images, target = batch()
    expected, soft = theirs(images.clone(), target)
    mix = mixing.cut(share, *middle, 16) if middle else mixing.Mix(share)
    mixed, labels, logits = mix.images(images.clone()), mix.labels(target, CLASSES), torch.randn(6, CLASSES)
    assert torch.equal(mixed, expected)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        F.cross_entropy(logits, labels, label_smoothing=smoothing), F.cross_entropy(logits, soft), rtol=1e-5, atol=1e-6
    )
    assert mix.dominant(target).tolist() == (target if mix.share >= 0.5 else target.flip(0)).tolist()


def test_draws():
    many = [mixing.draw(3, 2, number, mixup=0.8, cutmix=1.0, size=32) for number in range(300)]
    assert many[7] == mixing.draw(3, 2, 7, mixup=0.8, cutmix=1.0, size=32)
    assert many[7] not in (mixing.draw(4, 2, 7, mixup=0.8, cutmix=1.0, size=32), many[8])
    cuts = [mix for mix in many if mix.box]
    assert 110 < len(cuts) < 190
    assert all(
        mix.share == 1 - (bottom - top) * (right - left) / 32**2
        for mix in cuts
        for top, bottom, left, right in [mix.box]
    )
    assert not any(mixing.draw(3, 2, n, mixup=0.8, cutmix=0.0, size=32).box for n in range(20))
    assert all(mixing.draw(3, 2, n, mixup=0.0, cutmix=1.0, size=32).box for n in range(20))


def test_a_feed_mixes_its_batches(dataset):
    plain, mixed = Feed(dataset, CPU), Feed(dataset, CPU, mixup=0.8, cutmix=1.0)
    assert (plain.view_count, mixed.view_count) == (9**2, None)
    cases = zip(*(feed.batches(6, views=2, seed=1, epoch=2) for feed in (plain, mixed)), strict=True)
    for number, (one, other) in enumerate(cases):
        mix = mixing.draw(1, 2, number, mixup=0.8, cutmix=1.0, size=16)
        for before, after in zip(one.views, other.views, strict=True):
            assert torch.equal(mix.images(before.clone()), after)
        assert torch.equal(other.target, mix.dominant(one.target))
        assert torch.equal(other.target, mixed.labels[other.index])
        torch.testing.assert_close(other.soft.sum(dim=1), torch.ones(len(one.target)))
        if mix.share != 0.5:
            assert all(row[label] >= 0.5 for row, label in zip(other.soft, other.target, strict=True))
        assert (one.soft, other.view_names) == (None, None)
    (last,) = mixed.batches(6, views=2, seed=1, epoch=2, skip=number)
    assert torch.equal(last.views[0], other.views[0])


def test_the_teacher_sees_mixed_images(dataset):
    """Tables of what it says of others are not used."""
    teacher, settings = loop.create("resnet8", 10, 7, CPU), training_settings(1, 6, 0.1, mixup=1.0)
    run = loop.prepare(card("resnet8-resnet8", "kd", as_card(settings)), dataset, teacher, device=CPU)
    feed = loop.feed_of(run, dataset)
    teach = prepare(teacher, run.objective, feed, run.world, run.dtype, batch_size=6)
    assert isinstance(teach, Live)
    seen = next(feed.batches(6, views=1, seed=0, epoch=1))
    with torch.no_grad():
        torch.testing.assert_close(teach(seen)[0].logits, teacher.eval()(seen.views[0]).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_soft_labels(smoothing):
    student = loop.create("resnet8", 10, 0, CPU)
    output, target = student(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])
    goal = Objective(1.0, label_smoothing=smoothing)
    hard = goal([output], [], target)
    torch.testing.assert_close(hard.ce, goal([output], [], target, soft=F.one_hot(target, 10).float()).ce)
    log = output.logits.log_softmax(dim=1)
    expected = -(1 - smoothing) * log[range(4), target].mean() - smoothing * log.mean()
    torch.testing.assert_close(hard.ce, expected)


def test_several_processes_do_not_mix(dataset):
    made = card("resnet8-resnet8", "kd", as_card(training_settings(1, 6, 0.1, mixup=1.0)))
    with pytest.raises(UserError, match="mixup mixes images of the whole batch; train it in one process"):
        torchrun.check_divisible(made)


def test_methods_that_correct_the_teacher_are_refused():
    made = {"epochs": 2, "batch_size": 4, "lr": 0.1, "schedule": "cosine"}
    train = Train.model_validate({**made, "cutmix": 1.0, "exceptions": [{"seeds": [1], "cutmix": 0}]})
    for name, entry in catalog.methods().items():
        logit = entry.kind == "logit"
        cells = [Cell("resnet8-resnet8", name, seed, *((1, False) if logit else (None, None))) for seed in (0, 1)]
        train.of(cells[1], {})
        if entry.target == "refused":
            with pytest.raises(ValueError, match=rf"cutmix: 1.0: method {name} corrects .* or set cutmix: 0 for it"):
                train.of(cells[0], {})
        else:
            train.of(cells[0], {})
    assert catalog.methods()["revision"].target == "refused"
    assert catalog.methods()["dkd"].target == "dominant"
    assert catalog.methods()["crd"].target == "dominant"
    assert catalog.methods()["kd"].target == "soft"


def test_the_table_of_targets_is_that_of_the_methods():
    text = (ROOT / "docs/params.md").read_text(encoding="utf-8")
    for target in catalog.TARGETS:
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {target}: "))
        methods = [name for name, entry in catalog.methods().items() if entry.target == target]
        assert line.split("|")[2].strip().split(", ") == methods
