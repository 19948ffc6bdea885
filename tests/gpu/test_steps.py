"""Every kind of step on a stand-in for a GPU: no tensor on the wrong device, and nothing that makes the host wait."""

from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from kdcore import catalog, networks
from kdcore.data.dataset import Dataset, Split
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.networks import describing
from kdcore.results import evaluation
from kdcore.training import folding, lockstep, loop, state, teacher_outputs
from kdcore.training.device import autocast
from kdcore.training.inference import predict
from tests.gpu.stand_in import GPU, HAS_BACKWARD, NEEDS, SEEN_WITH, Accelerator
from tests.networks.test_foreign import SPECS
from tests.train import PUBLISHED

pytestmark = [
    NEEDS,
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),  # where modules are copied
]
CLASSES, IMAGES, BATCH, SIDE = 4, 20, 4, 16
PAIR = "resnet8x4-resnet8"
KNOWN = {
    # The singular vectors are its loss; the factorisations read their error flags back.
    "kdsvd": {"inside: aten._linalg_svd", "inside: aten._linalg_eigh"},
}
"""Method -> how its steps wait for the device, and cannot but do so."""
SUMS = ["reviewkd+dkd", "vid+mlkd", "crd+ctkd", "simkd+kd"]
SCALES = [("dkd", 1, False), ("dkd", 2, False), ("mlkd", "L4", True), ("kd", "L1_4", False)]
PRECISE = ["crd", "mlkd", "reviewkd"]
"""Methods whose steps are taken in float32 too."""
SETTINGS = [
    ("crd+kd", {"optimizer": "dot", "dot_delta": 0.075}),
    ("crd+kd", {"optimizer": "adamw", "lr": 1e-3}),
    ("crd+kd", {"optimizer": "lamb"}),
    ("kd", {"grad_clip_norm": 1.0, "nesterov": True}),
    ("kd", {"momentum": 0.0, "label_smoothing": 0.1, "ema": 0.9}),
    ("mlkd", {"mixup": 0.8}),
    ("crd+kd", {"cutmix": 1.0}),
    ("vanilla", {"augmentation": "none"}),
    ("vanilla", {"augmentation": {"randaugment": {}, "colour_jitter": 0.4, "erasing": 0.9, "joined": True}}),
    ("mlkd", {"augmentation": {"crop": "resized", "randaugment": {}, "interpolation": "bilinear"}}),
]
FAMILIES = [*{entry.module: name for name, entry in reversed(catalog.networks().items())}.values()]
"""A network of every file."""


@cache
def dataset(side=SIDE, **look):
    random = np.random.default_rng(0)

    def split(count):
        return Split(random.integers(0, 256, (count, side, side, 3), np.uint8), np.arange(count) % CLASSES)

    look = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": side, "flip": True, "padding": 2, **look}
    return Dataset("noise", [*"abcd"], split(IMAGES), split(3), **look)


@pytest.fixture(autouse=True)
def no_table(monkeypatch):
    monkeypatch.setenv("KDCORE_TABLES_GB", "0")


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Teachers, plain and folded, are made once for all tests; what the trainer sets in torch stays with it."""
    with (
        mock.patch.object(loop, "prepare_torch"),
        mock.patch.object(teacher_outputs, "folded", cache(folding.folded)),
    ):
        yield


@cache
def teacher_of(name):
    return loop.create(name, CLASSES, 1, GPU)


def prepared(pair, method, scale=None, stand=None, *, data=None, overrides=None, described=None, **settings):
    """A cell on the GPU that the stand-in plays: its run, its teacher and its images."""
    cell = Cell(pair, method, 0, scale, stand)
    resolved = recipes.resolve(
        cell, dataset="cifar100", published=PUBLISHED, overrides={method: overrides or {}}, stand_recipe="paper"
    )
    card = {"name": cell.name, "student": cell.student, "method": method, "seed": 0}
    card["recipe"] = {key: value.value for key, value in resolved.items()}
    if scale is not None:
        card |= {"levels": list(catalog.levels(scale)), "stand": stand}
    if described:
        card["networks"] = described
    card["train"] = {"epochs": 1, "batch_size": BATCH, "lr": 0.02, "schedule": "cosine", "precision": "bfloat16"}
    card["train"] |= settings
    data = loop.seen_by(card, data or dataset())
    teacher = None if method == "vanilla" else teacher_of(cell.teacher)
    return loop.prepare(card, data, teacher, device=GPU), teacher, data


def train(*cell, steps=1, fault=lambda _batch: None, **options):
    """Take a cell's first steps; returns its run, and the accelerator, which has noted what waits since the first one.

    Args:
        steps: with one, the teacher and the feed are not watched.
        fault: is called with the batch of every step.
    """
    with Accelerator(CLASSES, whole=IMAGES // CLASSES) as accelerator:
        run, teacher, data = prepared(*cell, **options)
        take = run.step

        def step(batch, outputs):
            if run.sums.steps == 0:
                accelerator.waits.clear()
            fault(batch)
            take(batch, outputs)

        run.step = step
        training = loop.steps(run, teacher, data)
        for _ in range(steps):
            next(training)
    kept = [*run.student.state_dict().values(), *run.objective.state_dict().values(), *run.sums.losses["loss"]]
    assert {tensor.device for tensor in kept} == {GPU}
    if HAS_BACKWARD and run.settings.optimizer != "dot":
        assert [key for part in (run.student, run.objective) for key, p in part.named_parameters()
                if p.requires_grad and p.grad is None] == []  # fmt: skip
    return run, accelerator


def unexpected(accelerator, method):
    """What waits, and is not known to."""
    known = set().union(*(KNOWN.get(name, set()) for name in method.split("+")))
    return {wait: count for wait, count in accelerator.waits.items() if wait.partition(" at ")[0] not in known}


def axes(method):
    """The scale and stand of a cell of a method: all regions with the z-score, where it takes them."""
    return (4, True) if catalog.kind(method) == "logit" else ()


def choices():
    """Every method, so often that it has every value that its parameters may choose from."""
    for name, entry in catalog.methods().items():
        chosen = {key: values for key, values in entry.parameters.items() if isinstance(values, list)}
        if entry.kind == "logit" and entry.across == "samples":
            chosen["decoupling"] = list(entry.decouplings)
        for number in range(max(map(len, chosen.values()), default=1)):
            yield name, {key: values[number % len(values)] for key, values in chosen.items()}
    yield "crd", {"negatives": 1}  # so few that it gathers the rows of its memory


@pytest.mark.parametrize(("method", "overrides"), [*choices()])
def test_no_method_waits(method, overrides):
    _, accelerator = train(PAIR, method, *axes(method), overrides=overrides)
    assert unexpected(accelerator, method) == {}
    assert torch.bfloat16 in accelerator.computed_in


@pytest.mark.parametrize("method", SUMS)
def test_no_sum_waits(method):
    assert unexpected(train(PAIR, method, *axes(method))[1], method) == {}


@pytest.mark.parametrize(("method", "scale", "stand"), SCALES)
def test_no_scale_waits(method, scale, stand):
    assert train(PAIR, method, scale, stand)[1].waits == {}


@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_no_schedule_waits(schedule):
    overrides = {"schedule": schedule, "decay_from": 0.0, "warmup": 2}
    assert train(PAIR, "kd", 1, False, overrides=overrides)[1].waits == {}


@pytest.mark.parametrize("method", PRECISE)
def test_no_step_in_float32_waits(method):
    _, accelerator = train(PAIR, method, *axes(method), precision="float32")
    assert accelerator.waits == {}
    assert [*accelerator.computed_in] == [torch.float32]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_network_waits(family):
    """As a student in training, and as a frozen teacher, which is of bfloat16 throughout."""
    with Accelerator(CLASSES) as accelerator:
        network = loop.create(family, CLASSES, 0, GPU)
        side = networks.image_size(family)
        images = torch.zeros(2, 3, side, side, device=GPU)
        accelerator.waits.clear()
        with autocast(GPU, torch.bfloat16):
            outputs = network.train()(images)
        if HAS_BACKWARD:
            parts = [part for part in tree_leaves(outputs) if part is not None]
            torch.stack([part.float().sum() for part in parts]).sum().backward()
        with torch.no_grad():
            network.eval().to(torch.bfloat16)(images.to(torch.bfloat16))
    assert accelerator.waits == {}


def test_no_network_of_others_waits():
    """A transformer of timm with a distillation token and stochastic depth."""
    described = {"deit": describing.described({**SPECS["distilled"], "drop_path": 0.1}, 32)}
    _, accelerator = train("resnet8x4-deit", "kd", 1, True, data=dataset(32), described=described)
    assert accelerator.waits == {}


@pytest.mark.parametrize(("method", "settings"), SETTINGS)
def test_no_setting_waits(method, settings):
    assert train(PAIR, method, *axes(method), steps=2, **settings)[1].waits == {}


@pytest.mark.parametrize(("fault", "kind"), [
    (lambda batch: batch.target.sum().item(), "read: aten._local_scalar_dense"),
    (lambda batch: batch.target[batch.target > 0], "inside: aten.index by a mask"),
    (lambda batch: batch.target + torch.ones(BATCH).to(GPU), "to the device, blocking"),
])  # fmt: skip
def test_a_wait_in_a_step_is_noticed(fault, kind):
    _, accelerator = train(PAIR, "kd", 1, False, fault=fault)
    assert [wait.partition(" at ")[0] for wait in accelerator.waits] == [kind]


@pytest.mark.parametrize(("fault", "error", "message"), [
    (lambda batch: batch.target + torch.ones(BATCH), RuntimeError, "two devices|same device"),
    (lambda _batch: torch.rand(3, device=GPU, generator=torch.Generator()), AssertionError, "another device's generat"),
])  # fmt: skip
def test_another_device_in_a_step_is_noticed(fault, error, message):
    with pytest.raises(error, match=message):
        train(PAIR, "kd", 1, False, fault=fault)


def test_gradients_are_computed_here():
    """Where they are not, the steps above were without backward pass and optimiser."""
    if not HAS_BACKWARD:
        pytest.skip(f"backward passes on the stand-in were seen to work with torch {', '.join(SEEN_WITH)} alone")
    run, _ = train(PAIR, "kd", 1, False)
    assert {parameter.grad.device for parameter in run.student.parameters()} == {GPU}


def test_without_a_size_there_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_TABLES", str(tmp_path))
    monkeypatch.delenv("KDCORE_TABLES_GB")
    assert train(PAIR, "kd", 1, False, steps=2)[1].waits == {}
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("scale", [1, 4])
def test_table(scale, tmp_path, monkeypatch):
    """Views that are missing are computed, and waited for; those that are there cost one copy that does not block."""
    monkeypatch.setenv("KDCORE_TABLES", str(tmp_path))
    monkeypatch.setenv("KDCORE_TABLES_GB", "1")
    waits = [train(PAIR, "kd", scale, True, steps=2)[1].waits for _ in range(2)]
    assert {wait.partition(" at ")[0] for wait in waits[0]} == {"to the host: aten._to_copy", "to the device, blocking"}
    assert waits[1] == {}


def test_what_a_method_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_TABLES", str(tmp_path))
    monkeypatch.setenv("KDCORE_TABLES_GB", "1")
    for _ in range(2):  # it is computed, and read
        assert train(PAIR, "wkd_l", 1, False)[1].waits == {}
    assert [*tmp_path.glob("*/values.safetensors")]


def test_side_by_side():
    with Accelerator(CLASSES) as accelerator:
        runs = [prepared(PAIR, method)[0] for method in ("at", "crd")]
        training = lockstep.side_by_side(runs, teacher_of("resnet8x4"), dataset())
        next(training)
        accelerator.waits.clear()
        next(training)
    assert [run.sums.steps for run in runs] == [2, 2]
    assert accelerator.waits == {}


def test_state():
    """What is saved between two steps is taken over by another run."""
    with Accelerator(CLASSES):
        run, teacher, data = prepared(PAIR, "crd+kd", 4, True, ema=0.9)
        next(loop.steps(run, teacher, data))
        other, _, _ = prepared(PAIR, "crd+kd", 4, True, ema=0.9)
        state.restore(other, state.capture(run))
        next(loop.steps(other, teacher, data))
    assert other.sums.steps == 2


def test_an_epoch_and_its_evaluation():
    """Where values are read, but no devices are mixed."""
    with Accelerator(CLASSES):
        run, teacher, data = prepared(PAIR, "kd", 1, False, ema=0.9, batch_size=IMAGES)
        loop.train(run, teacher, data)
        labels = torch.from_numpy(data.test.labels).to(GPU)
        logits = predict(run.student, data.test, data, GPU)
        assert logits.device == GPU
        evaluation.measure(logits, labels, logits)
        evaluation.reliability(logits, labels)
    assert [*run.history[0]] == ["epoch", "lr", "loss", "ce", "kd", "train_top1", "test_top1", "ema_test_top1"]
