"""Averages of weights: their closed form, timm's numbers, and what a run keeps of them."""

import math

import pandas as pd
import pytest
import torch

from kdcore import checkpoints
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix.cell import RUNS
from kdcore.networks import describing
from kdcore.results import evaluation
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import experiment, loop, run_folder
from kdcore.training.ema import Average
from kdcore.training.inference import predict, top1
from tests.masked import Masked
from tests.train import CPU, as_card, card, training_settings

PAIR = "resnet8-resnet8"
NAME = f"{PAIR}-vanilla-base-0"


@pytest.fixture(scope="module")
def dataset():
    return digits.fetch(source="embedded", image_size=16, train_per_class=4)


def filled(network, value):
    for tensor in network.state_dict().values():
        tensor.fill_(value)


def test_closed_form():
    network = loop.create("resnet8", 10, 0, CPU)
    filled(network, 1.0)
    average = Average(network, 0.9)
    filled(network, 3.0)
    for _ in range(5):
        average.update(network)
    for value in average.network.state_dict().values():
        expected = 3 - 2 * 0.9**5 if value.is_floating_point() else 3
        torch.testing.assert_close(value, torch.full_like(value, expected))
    assert all(torch.equal(value, torch.full_like(value, 3)) for value in network.state_dict().values())


def test_numbers_are_those_of_timm():
    timm = pytest.importorskip("timm.utils")
    network = loop.create("resnet8", 10, 0, CPU)
    ours, theirs = Average(network, 0.99), timm.ModelEmaV3(network, decay=0.99)
    for seed in range(1, 4):
        network.load_state_dict(loop.create("resnet8", 10, seed, CPU).state_dict())
        ours.update(network)
        theirs.update(network)
    for key, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.network.state_dict()[key], value)


def test_infinities_stay_and_shared_weights_are_averaged_once():
    network = Masked()
    weight = network.first.weight
    with torch.no_grad():
        weight.fill_(1.0)
        average = Average(network, 0.9)
        weight.fill_(3.0)
    average.update(network)
    assert torch.equal(average.network.mask, network.mask)
    torch.testing.assert_close(average.network.second.weight, torch.full((3, 3), 3 - 2 * 0.9))


def test_a_run_measures_and_keeps_its_average(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "data/digits") as folder:
        storage.save(dataset, folder)
    settings = as_card(training_settings(3, 16, 0.02, ema=0.8))
    made = card(PAIR, "vanilla", settings) | {"data": "digits", "pair": PAIR, "validation": 0.25}
    yamlfile.write(tmp_path / "cell.yaml", made)
    out = RUNS / PAIR / NAME
    experiment.run(tmp_path / "cell.yaml", out)
    run_folder.check(out, made)
    history = pd.read_csv(out / run_folder.HISTORY)
    assert list(history)[-4:] == ["val_top1", "test_top1", "ema_val_top1", "ema_test_top1"]
    average = checkpoints.restore("resnet8", 10, out / run_folder.AVERAGE, CPU)
    seen = loop.seen_by(made, dataset)
    right = top1(predict(average, dataset.test, seen, CPU), torch.from_numpy(dataset.test.labels)).item()
    assert history["ema_test_top1"].iloc[-1] == pytest.approx(right)
    weights = checkpoints.restore("resnet8", 10, out / run_folder.WEIGHTS, CPU)
    assert not torch.equal(weights.classifier.weight, average.classifier.weight)

    checkpoints.save(loop.create("resnet8", 10, 7, CPU), tmp_path / "teacher.safetensors")
    of_pair = {"pair": PAIR, "validation": 0.25, "cells": [{"name": NAME, "method": "vanilla"}]}
    found, _ = evaluation.evaluate_pair(of_pair, dataset, tmp_path / "teacher.safetensors", CPU)
    assert found["cells"][0]["top1_ema"] == pytest.approx(right, abs=1e-4)
    assert math.isfinite(found["cells"][0]["top1"])

    (out / run_folder.AVERAGE).unlink()
    with pytest.raises(UserError, match=r"ema\.safetensors: is missing or empty"):
        run_folder.check(out, made)
    plain = {**made, "train": {key: value for key, value in made["train"].items() if key != "ema"}}
    experiment.run(tmp_path / "cell.yaml", out)
    yamlfile.write(tmp_path / "plain.yaml", plain)
    experiment.run(tmp_path / "plain.yaml", tmp_path / "plain")
    assert not (tmp_path / "plain" / run_folder.AVERAGE).exists()
    one, other = (
        checkpoints.restore("resnet8", 10, path / run_folder.WEIGHTS, CPU) for path in (out, tmp_path / "plain")
    )
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_the_average_of_a_network_by_name_is_evaluated(dataset, tmp_path, monkeypatch):
    """Which only its description tells how to make."""
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "data/digits") as folder:
        storage.save(dataset, folder)
    named = {"small_images": describing.described({"zoo": "resnet8", "image_size": 8}, 16)}
    pair = "resnet8-small_images"
    made = card(PAIR, "vanilla", as_card(training_settings(1, 16, 0.02, ema=0.8)))
    made |= {"data": "digits", "pair": pair, "student": "small_images", "networks": named}
    yamlfile.write(tmp_path / "cell.yaml", made)
    experiment.run(tmp_path / "cell.yaml", RUNS / pair / NAME)
    checkpoints.save(loop.create("resnet8", 10, 7, CPU), tmp_path / "teacher.safetensors")
    of_pair = {"pair": pair, "networks": named, "cells": [{"name": NAME, "method": "vanilla"}]}
    found, _ = evaluation.evaluate_pair(of_pair, dataset, tmp_path / "teacher.safetensors", CPU)
    history = pd.read_csv(RUNS / pair / NAME / run_folder.HISTORY)
    assert found["cells"][0]["top1_ema"] == pytest.approx(history["ema_test_top1"].iloc[-1], abs=1e-4)
