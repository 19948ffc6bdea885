"""Networks for ImageNet: equality with torchvision's; both MobileNets: equality with their published layers."""

from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn

from kdcore import checkpoints, networks

TORCHVISION = {
    "imagenet_resnet18": torchvision.models.resnet18,
    "imagenet_resnet34": torchvision.models.resnet34,
    "imagenet_resnet50": torchvision.models.resnet50,
    "imagenet_resnet101": torchvision.models.resnet101,
    "imagenet_resnet152": torchvision.models.resnet152,
    "imagenet_mobilenetv2": torchvision.models.mobilenet_v2,
}
MOBILENETS = {
    "imagenet_mobilenetv1": ([32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024], (1, 4, 6, 12, 14)),
    "mobilenetv1": ([32, 64, 128, 128, 256, 256, *[512] * 6], (1, 4, 6, 12)),
}
"""Channels of the layers, and how many of them each stage has behind it."""
SIZES = pytest.mark.parametrize("size", [64, 97, 224])


def both(name, seed=0):
    """Ours and torchvision's, initialised from one seed."""
    torch.manual_seed(seed)
    ours = networks.create(name, 1000)
    torch.manual_seed(seed)
    return ours, TORCHVISION[name](num_classes=1000)


def mobilenet(widths, classes):
    """The layers of the MobileNetV1 of mdistiller, and of StreamLined, under their keys, without their average pool."""

    def rectified(*arguments, **keywords):
        return [nn.Conv2d(*arguments, **keywords, bias=False), nn.BatchNorm2d(arguments[1]), nn.ReLU(inplace=True)]

    layers = [nn.Sequential(*rectified(3, 32, 3, 2, 1))]
    for i, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        depthwise = rectified(inputs, inputs, 3, 2 if i in (2, 4, 6, 12) else 1, 1, groups=inputs)
        layers.append(nn.Sequential(*depthwise, *rectified(inputs, outputs, 1)))
    network = nn.Module()
    network.model, network.fc = nn.Sequential(*layers), nn.Linear(widths[-1], classes)
    return network


@pytest.mark.parametrize("name", TORCHVISION)
def test_initial_weights_are_torchvisions(name):
    ours, theirs = (network.state_dict() for network in both(name))
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("name", TORCHVISION)
@SIZES
def test_logits_are_torchvisions_in_evaluation_mode(name, size):
    ours, theirs = (network.eval() for network in both(name))
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(images).logits, theirs(images))


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_is_torchvisions(name, memory_format):
    """Logits, gradients and running statistics, of the same random numbers where there is a dropout."""
    ours, theirs = (network.train().to(memory_format=memory_format) for network in both(name))
    images = torch.randn(3, 3, 64, 64).to(memory_format=memory_format)
    torch.manual_seed(1)
    logits = ours(images).logits
    torch.manual_seed(1)
    expected = theirs(images)
    assert torch.equal(logits, expected)
    for of in (logits, expected):
        of.square().sum().backward()
    for (key, own), (other_key, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert key == other_key
        assert torch.equal(own.grad, other.grad)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_weights_load(name, tmp_path):
    ours, theirs = both(name)[0], both(name, seed=1)[1]
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    checkpoints.load(tmp_path / "weights.pth", ours)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@SIZES
@pytest.mark.parametrize("name", MOBILENETS)
def test_mobilenet_equals_its_layers_in_sequence(name, size):
    widths, depths = MOBILENETS[name]
    torch.manual_seed(0)
    ours = networks.create(name, 100)
    torch.manual_seed(0)
    theirs = mobilenet(widths, 100)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        out, last = ours.eval()(images), theirs.model.eval()(images)
        assert torch.equal(out.final_map, last)
        torch.testing.assert_close(out.logits, theirs.fc(nn.functional.adaptive_avg_pool2d(last, 1).flatten(1)))
        for stage, depth in zip(out.stages, depths, strict=True):
            assert torch.equal(stage, theirs.model[:depth](images))


@pytest.mark.parametrize("name", ["imagenet_resnet34", "imagenet_resnet50"])
def test_stages_of_resnets_are_what_torchvisions_pass_on(name):
    """The first is what goes into the max pool."""
    ours, theirs = (network.eval() for network in both(name))
    seen = []
    theirs.maxpool.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        stage.register_forward_hook(lambda _module, _inputs, output: seen.append(output.clone()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs(images)
        assert all(torch.equal(own, other) for own, other in zip(ours(images).stages, seen, strict=True))


def test_stages_of_mobilenetv2_are_what_torchvisions_pass_on():
    ours, theirs = (network.eval() for network in both("imagenet_mobilenetv2"))
    images = 20 * torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        out = ours(images)
        assert out.stages[0].max() == 6
        for stage, depth in zip((*out.stages, out.final_map), (1, 4, 7, 14, 18, 19), strict=True):
            assert torch.equal(stage, theirs.features[:depth](images))


def test_dropout_is_between_pooled_and_the_classifier():
    """Only while MobileNetV2 trains; `pooled` is always the mean of the last map."""
    network = networks.create("imagenet_mobilenetv2", 7).train()
    out = network(torch.randn(4, 3, 64, 64))
    torch.testing.assert_close(out.pooled, out.final_map.mean(dim=(2, 3)))
    assert not torch.allclose(network.classifier(out.pooled), out.logits)
    assert isinstance(network.classifier, nn.Linear)
