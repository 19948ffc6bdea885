"""Linear probes: closed forms of a step, features that say nothing or everything, and equal bits."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdcore.matrix.protocols import PROTOCOLS
from kdcore.system.errors import RunError
from kdcore.training import probe

CLASSES, WIDTH = 5, 12
PLAIN = {
    **PROTOCOLS["default"].model_dump(),
    "epochs": 1,
    "milestones": [],
    "momentum": 0.0,
    "nesterov": False,
}
"""One step of gradient descent, where all images are one batch."""


def drawn(count, *, apart, seed=0):
    """Features whose classes lie `apart`, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return torch.randn(count, WIDTH, generator=generator) + apart * F.one_hot(labels, WIDTH), labels


def trained(train, test=None, *, size=64, lr=0.1, seed=0, **changes):
    protocol = {**PLAIN, **changes}
    return probe.train(
        probe.kept(*train, size=size, seed=seed),
        test or train,
        width=train[0].shape[1],
        classes=CLASSES,
        protocol=protocol,
        lr=lr,
        seed=seed,
        name="probe",
    )


def first_layer(seed=0, **changes):
    """The layer before its first step."""
    return trained(
        (torch.zeros(2, WIDTH), torch.zeros(2, dtype=torch.int64)), lr=0.0, seed=seed, **changes
    ).layer.requires_grad_(False)


@pytest.mark.parametrize("start", ["uniform", "normal"])
def test_one_step_on_all_images(start):
    """The gradient of the cross-entropy is the mean of (softmax - one-hot) times the features."""
    features, labels = drawn(200, apart=1.0)
    before = first_layer(start=start)
    error = (before(features).softmax(dim=1) - F.one_hot(labels, CLASSES)) / len(labels)
    after = trained((features, labels), size=200, lr=0.3, start=start).layer
    assert torch.allclose(after.weight, before.weight - 0.3 * error.T @ features, atol=1e-6)
    assert torch.allclose(after.bias, before.bias - 0.3 * error.sum(dim=0), atol=1e-6)


def test_weight_decay_alone():
    """Features of zeros reach no weight, so a weight falls by the share lr * weight_decay in every step."""
    zeros = torch.zeros(40, WIDTH), torch.arange(40) % CLASSES
    decayed = trained(zeros, size=10, epochs=3, weight_decay=0.5, lr=0.2).layer
    assert torch.allclose(decayed.weight, first_layer().weight * (1 - 0.2 * 0.5) ** 12, atol=1e-7)


def test_the_learning_rate_drops_behind_a_milestone():
    """With weight decay alone each epoch's factor shows."""
    zeros = torch.zeros(10, WIDTH), torch.arange(10) % CLASSES
    decayed = trained(zeros, size=10, epochs=3, milestones=[1, 2], lr_decay=0.5, weight_decay=0.5, lr=0.2).layer
    factor = math.prod(1 - rate * 0.5 for rate in (0.2, 0.1, 0.05))
    assert torch.allclose(decayed.weight, first_layer().weight * factor, atol=1e-7)


def test_the_first_weights():
    uniform, normal = first_layer(start="uniform"), first_layer(start="normal")
    assert uniform.weight.abs().max() <= 1 / math.sqrt(WIDTH)
    assert uniform.weight.abs().max() > 0.9 / math.sqrt(WIDTH)
    assert normal.weight.std() == pytest.approx(0.01, rel=0.3)
    assert (normal.bias == 0).all()
    assert not torch.equal(uniform.weight, first_layer(seed=1).weight)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_features_that_say_nothing_are_at_chance(name):
    settings = {**PROTOCOLS[name].model_dump(), "epochs": 20}
    found = trained(drawn(600, apart=0.0), drawn(4000, apart=0.0, seed=1), **settings)
    chance = 100 / CLASSES
    assert abs(found.history[-1] - chance) < 5 * math.sqrt(chance * (100 - chance) / 4000)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_features_that_classes_lie_apart_in_are_learnt_whole(name):
    settings = {**PROTOCOLS[name].model_dump(), "epochs": 20}
    found = trained(drawn(300, apart=12.0), drawn(300, apart=12.0, seed=1), **settings)
    assert found.history[-1] == 100


def test_equal_bits_and_another_order_for_another_seed():
    data = drawn(300, apart=1.0)
    one, same, other = (trained(data, epochs=3, seed=seed).layer.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_every_image_is_seen_once_in_an_epoch():
    features, labels = drawn(130, apart=1.0)
    batches = list(probe.kept(features, labels, size=64, seed=0)(1))
    assert [len(target) for _, target in batches] == [64, 64, 2]
    seen = torch.cat([part for part, _ in batches])
    assert torch.equal(seen.sort(dim=0).values, features.sort(dim=0).values)
    assert not torch.equal(seen, features)


def test_a_loss_that_is_not_finite_is_refused():
    features, labels = drawn(50, apart=1.0)
    with pytest.raises(RunError, match="probe: epoch 1 of the probe: the loss is not finite"):
        trained((features * float("nan"), labels))
