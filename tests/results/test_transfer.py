"""A pair probed from its folders: what networks see, what is computed once, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kdcore import checkpoints, networks
from kdcore.data.dataset import Split
from kdcore.data.sources import digits
from kdcore.matrix import protocols
from kdcore.networks import input_affine
from kdcore.results import transfer
from kdcore.system.errors import UserError

CPU = torch.device("cpu")
SHORT = {"epochs": 3, "milestones": [2]}


@pytest.fixture(scope="module")
def datasets():
    small = digits.fetch(source="embedded", image_size=16, train_per_class=2)
    target = digits.fetch(source="embedded", image_size=32, train_per_class=4)
    return small, replace(target, test=target.test.take(np.arange(40)), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    checkpoints.save(networks.create("resnet8", 10), tmp_path / "pair.safetensors")
    return tmp_path / "pair.safetensors"


def card(*names, **changes):
    settings = {name: {**protocols.card(name, "digits", given=None), **SHORT} for name in names or ("default",)}
    return {"pair": "resnet8-resnet8", "target": "t", "cells": [], "slow": [], "protocols": settings, **changes}


def probed(datasets, teacher, *names, identity="", **changes):
    return transfer.probe_pair(card(*names, **changes), *datasets, teacher, CPU, identity=identity)


def test_every_protocol_on_images_of_each_size(datasets, teacher):
    found = probed(datasets, teacher, *protocols.PROTOCOLS, image_size=16)
    assert set(found["teacher"]) == set(protocols.PROTOCOLS)
    assert (found["image_size"], found["classes"], found["train_images"], found["test_images"]) == (16, 10, 40, 40)
    assert all(0 <= one["top1"] <= one["top1_best"] <= one["top5"] <= 100 for one in found["teacher"].values())
    assert probed(datasets, teacher, image_size=32)["teacher"] != probed(datasets, teacher)["teacher"]


@pytest.mark.parametrize("flip", [False, True])
def test_only_what_may_be_is_mirrored(datasets, flip):
    """Digits and letters are others in a mirror."""
    small, target = datasets
    seen = transfer._Seen(card(), small, replace(target, flip=flip), CPU, "")
    assert seen.of(protocols.card("dcd", "digits", given=None)).flip == flip


def test_a_network_of_another_normalisation_is_not_shown_shifted_images(datasets, teacher):
    network = networks.create("resnet8", 10)
    own = {"own_mean": (0.4,) * 3, "own_std": (0.2,) * 3}
    input_affine.attach(network, mean=datasets[0].mean, std=datasets[0].std, **own)
    checkpoints.save(network, teacher)
    assert probed(datasets, teacher)["teacher"]["default"]["top5"] > 0
    with pytest.raises(UserError, match=r"resnet8 on t: it was trained on .* protocol hsakd normalises .* default$"):
        probed(datasets, teacher, "hsakd")


def recorded(monkeypatch, module, name):
    """Keep the arguments of every call of a function, which does what it did."""
    calls, real = [], getattr(module, name)

    def function(*arguments, **options):
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, function)
    return calls


@pytest.mark.parametrize("given", [None, ([0.1] * 3, [0.2] * 3)], ids=["network", "given"])
def test_features_are_those_that_the_classifier_sees(datasets, teacher, monkeypatch, given):
    """In evaluation mode, of images as the network's own data set is normalised, or as the protocol says."""
    calls = recorded(monkeypatch, transfer.probe, "kept")
    network = networks.create("resnet8", 10)
    checkpoints.load(teacher, network)
    settings = {"default": {**protocols.card("default", "digits", given=given), **SHORT}}
    probed(datasets, teacher, protocols=settings, image_size=32)
    mean, std = given or (datasets[0].mean, datasets[0].std)
    images = torch.from_numpy(datasets[1].train.images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        out = network.eval()((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    ((features, labels),) = calls
    assert torch.allclose(features, out.pooled, atol=1e-5)
    assert torch.allclose(network.classifier(features), out.logits, atol=1e-4)
    assert torch.equal(labels, torch.from_numpy(datasets[1].train.labels))


def test_features_that_protocols_share_are_computed_once(datasets, teacher, monkeypatch):
    calls = recorded(monkeypatch, transfer, "_pooled")
    plain = {**protocols.card("default", "digits", given=None), **SHORT}
    probed(datasets, teacher, protocols={"one": plain, "two": {**plain, "lr": 0.01}})
    assert [len(images) for _, images in calls] == [40, 40]


def test_a_kept_probe_is_not_repeated(datasets, teacher, monkeypatch):
    first = probed(datasets, teacher, identity="a")
    assert len(list(transfer.PROBES.glob("*.json"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_pooled", lambda *_: pytest.fail("computed again"))
        assert probed(datasets, teacher, identity="a") == first
    for changed in ({"identity": "b"}, {"identity": "a", "image_size": 32}):
        before = len(list(transfer.PROBES.glob("*.json")))
        probed(datasets, teacher, **changed)
        assert len(list(transfer.PROBES.glob("*.json"))) == before + 1


def test_a_damaged_kept_probe_is_measured_again(datasets, teacher):
    first = probed(datasets, teacher, identity="a")
    (file,) = transfer.PROBES.glob("*.json")
    file.write_text('{"top1": "NaN"}')
    assert probed(datasets, teacher, identity="a") == first
    assert json.loads(file.read_text()) == first["teacher"]["default"]


def test_norms_stay_as_they_are(datasets, teacher, monkeypatch):
    calls = recorded(monkeypatch, transfer, "_probes")
    probed(datasets, teacher, *protocols.PROTOCOLS)
    fresh = networks.create("resnet8", 10)
    checkpoints.load(teacher, fresh)
    network = calls[0][2].network
    assert not network.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in fresh.state_dict().items())


def test_resized_images_are_those_of_pillow(datasets):
    seen = transfer._Seen(card(image_size=20), *datasets, CPU, "")
    resized = seen.resized("train").images
    assert resized.shape == (40, 20, 20, 3)
    picture = Image.fromarray(datasets[1].train.images[3]).resize((20, 20), Image.Resampling.BILINEAR)
    assert (resized[3] == np.asarray(picture)).all()


def test_the_middle_of_larger_stored_images(datasets):
    """As evaluation sees a data set of the user's that is stored with a margin for crops."""
    wide = replace(datasets[1], image_size=28)
    seen = transfer._Seen(card(image_size=28), datasets[0], wide, CPU, "")
    assert (seen.resized("test").images == datasets[1].test.images[:, 2:30, 2:30]).all()


def test_a_target_of_one_class_is_refused(datasets, teacher):
    small, target = datasets
    alone = replace(target, train=Split(target.train.images, np.zeros_like(target.train.labels)))
    with pytest.raises(UserError, match="target t: holds one class; a probe needs at least two"):
        probed((small, alone), teacher)


def test_images_that_a_network_cannot_see_are_refused(datasets, teacher, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Kernel size can't be greater than actual input size\nmore")

    monkeypatch.setattr("kdcore.networks.resnet.ResNet.forward", refuse)
    with pytest.raises(UserError, match=r"cannot see images of 16 pixels \(Kernel size .*\); set targets\.<name>"):
        probed(datasets, teacher)
