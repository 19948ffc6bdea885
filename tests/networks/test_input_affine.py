"""A network that was trained on images of another normalisation sees them as it was trained to."""

import pytest
import torch

from kdcore import checkpoints, networks
from kdcore.networks import input_affine
from kdcore.networks.cost import multiply_adds, parameters
from kdcore.training.folding import folded

MEAN, STD = (0.1, 0.5, 0.9), (0.3, 0.2, 1.0)
OWN_MEAN, OWN_STD = (0.5, 0.4, 0.0), (0.25, 1.0, 1 / 255)


def normalised(pixels, mean, std):
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.fixture
def pixels():
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return networks.create("resnet8", 10).eval()


@pytest.fixture
def attached(network):
    copy = networks.create("resnet8", 10).eval()
    copy.load_state_dict(network.state_dict())
    input_affine.attach(copy, mean=MEAN, std=STD, own_mean=OWN_MEAN, own_std=OWN_STD)
    return copy


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_images_are_seen_as_in_training(network, attached, pixels):
    wanted = network(normalised(pixels, OWN_MEAN, OWN_STD)).logits
    assert close(attached(normalised(pixels, MEAN, STD)).logits, wanted)
    assert not close(network(normalised(pixels, MEAN, STD)).logits, wanted)


def test_the_same_normalisation_changes_nothing(network, pixels):
    wanted = network(pixels).logits
    input_affine.attach(network, mean=MEAN, std=STD, own_mean=MEAN, own_std=STD)
    assert torch.equal(network(pixels).logits, wanted)


def test_attached_again_the_last_one_counts(network, attached, pixels):
    input_affine.attach(attached, mean=MEAN, std=STD, own_mean=MEAN, own_std=STD)
    assert torch.equal(attached(pixels).logits, network(pixels).logits)


def test_it_is_saved_restored_and_folded(attached, pixels, tmp_path):
    checkpoints.save(attached, tmp_path / "a.safetensors")
    restored = checkpoints.restore("resnet8", 10, tmp_path / "a.safetensors", torch.device("cpu"))
    wanted = attached(pixels).logits
    assert close(restored(pixels).logits, wanted)
    assert close(folded(restored, 16)(pixels).logits, wanted)


def test_it_costs_nothing(network, attached):
    assert parameters(attached) == parameters(network)
    assert multiply_adds(attached, 16) == multiply_adds(network, 16)
