"""Every method trains every kind of pair, and nothing else than it should."""

from dataclasses import replace

import pytest
import torch

from kdcore import catalog, objective
from kdcore.data.dataset import Split
from kdcore.data.sources import digits
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.training import loop
from tests.train import PUBLISHED, as_card, card, carry_out, training_settings

CPU = torch.device("cpu")
PAIRS = {
    "same family": "resnet14-resnet8",
    "wider teacher": "wrn_16_2-wrn_16_1",
    "different family, other number of stages": "resnet18-wrn_16_1",
    "maps of one pixel": "vgg8-mobilenetv2",
}
IMAGENET_PAIRS = ["imagenet_resnet34-imagenet_resnet18", "imagenet_resnet50-imagenet_mobilenetv1"]
SUMS = ["crd+kd", "reviewkd+dkd", "at+sp", "vid+mlkd"]


@pytest.fixture(scope="module")
def dataset():
    """With few test images, for their accuracy is of no interest here."""
    made = digits.fetch(source="embedded", image_size=16, train_per_class=2)
    return replace(made, test=Split(made.test.images[:20], made.test.labels[:20]))


@pytest.mark.parametrize(("pair", "precision"), [
    *((pair, "float32") for pair in PAIRS.values()), (PAIRS["wider teacher"], "bfloat16"),
])  # fmt: skip
@pytest.mark.parametrize("method", [*catalog.methods(), *SUMS])
def test_every_method_trains_every_kind_of_pair(dataset, pair, precision, method):
    """One epoch with the recipe of the digits; every parameter of the student and of the adapters gets a gradient."""
    settings = training_settings(1, 10, 0.02, precision=precision)
    teacher = loop.create(pair.split("-")[0], 10, 1, CPU)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student, goal, history = carry_out(card(pair, method, as_card(settings)), dataset, teacher)
    for network in (student, goal):
        unmoved = [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert unmoved == []
    assert all(p.grad.abs().sum() > 0 for p in student.parameters() if p.requires_grad)
    assert list(history[0]) == ["epoch", "lr", "loss", "ce", *method.split("+"), "train_top1", "test_top1"]
    assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
    assert {name for name, _ in goal.named_children()} == {"by_name"}


@pytest.mark.parametrize(("method", "pair"), [
    # SemCKD's projections for such a teacher have 860 million weights.
    pytest.param(method, pair, marks=[pytest.mark.slow] * ((method, pair) == ("semckd", IMAGENET_PAIRS[1])))
    for method in catalog.methods() if catalog.kind(method) == "feature" for pair in IMAGENET_PAIRS
])  # fmt: skip
def test_every_feature_method_takes_networks_for_imagenet(method, pair):
    """One step on images of 64 pixels; every parameter of the student and of the adapters gets a gradient."""
    recipe = recipes.resolve(
        Cell(pair, method, 0), dataset="digits", published=PUBLISHED, overrides={}, stand_recipe="paper"
    )
    teacher, student = (loop.create(name, 10, 0, CPU) for name in pair.split("-"))
    labels = torch.arange(10).repeat(2)
    values = {key: value.value for key, value in recipe.items()}
    goal, student = objective.build(
        method, values, student=student, teacher=teacher, labels=labels, image_size=64, batch_size=4, epochs=1,
        teacher_outputs=lambda: iter([teacher(torch.randn(20, 3, 64, 64))]),
    )  # fmt: skip
    index, generator = torch.arange(4), torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    with torch.no_grad():
        taught = teacher.train(goal.teacher_in_training_mode)(images)
    parts = goal.train()([student(images)], [taught], labels[index], objective.BatchContext(index, 1, generator))
    parts.loss.backward()
    assert torch.isfinite(parts.loss)
    for network in (student, goal):
        unmoved = [key for key, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert unmoved == []
    assert all(p.grad.abs().sum() > 0 for p in student.parameters() if p.requires_grad)


def test_adapters_are_not_part_of_the_student(dataset):
    teacher, student = (loop.create(name, 10, 0, CPU) for name in ("wrn_16_2", "resnet8"))
    recipe = {"embedding": 8, "ce_weight": 1.0, "kd_weight": 1.0, "warmup": 0}
    labels = torch.from_numpy(dataset.train.labels)
    count = sum(p.numel() for p in student.parameters())
    goal, _ = objective.build(
        "cc", recipe, student=student, teacher=teacher, labels=labels, image_size=16, batch_size=10, epochs=1
    )
    assert sum(p.numel() for p in student.parameters()) == count
    assert sum(p.numel() for p in goal.parameters()) == (64 + 1) * 8 + (128 + 1) * 8


@pytest.mark.parametrize(("variant", "moves"), [("frozen", False), ("as_published", True)])
def test_mode_of_ofds_teacher(dataset, variant, moves):
    """Published code leaves it in training mode, so that its running statistics move; its weights never do."""
    teacher = loop.create("resnet14", 10, 1, CPU)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    train = {"epochs": 1, "batch_size": 10, "lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    recipe = {"variant": variant, "ce_weight": 1.0, "kd_weight": 0.001, "warmup": 0}
    card = {"name": "cell", "student": "resnet8", "method": "ofd", "seed": 0, "train": {**train, "schedule": "cosine"}}
    carry_out({**card, "recipe": recipe}, dataset, teacher)
    moved = {key for key, value in teacher.state_dict().items() if not torch.equal(value, before[key])}
    assert bool(moved) == moves
    assert all("running" in key or "num_batches" in key for key in moved)
