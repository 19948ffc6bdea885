"""Metrics by hand, cost against published counts, and a pair evaluated from its folders."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from kdcore import methods, networks
from kdcore.data import subsets
from kdcore.data.sources import digits
from kdcore.results import evaluation
from kdcore.results.rows import METRICS, read_evaluation
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, write_json
from kdcore.training import loop, run_folder
from kdcore.training.inference import predict
from tests.train import CPU, top1_of


def test_metrics_by_hand():
    log = math.log
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
    labels = torch.tensor([0, 1, 2, 1])
    teacher = torch.eye(3)[[0, 0, 2, 2]]
    got = evaluation.measure(probabilities.log(), labels, teacher)
    assert got["top1"] == 75
    assert got["agreement"] == 75
    assert got["top5"] == 100  # all three classes
    assert got["nll"] == pytest.approx(-(log(0.7) + log(0.3) + log(0.7) + log(0.8)) / 4, abs=1e-4)
    # confidences 0.7, 0.6, 0.7, 0.8 in bins of their own: |1 - 0.7| * 2/4 + |0 - 0.6| / 4 + |1 - 0.8| / 4
    assert got["ece"] == pytest.approx(100 * (0.3 / 2 + 0.6 / 4 + 0.2 / 4), abs=1e-3)


def test_top5():
    logits = torch.arange(10.0).repeat(2, 1)
    assert evaluation.measure(logits, torch.tensor([5, 4]), logits)["top5"] == 50


def test_reliability_by_hand():
    probabilities = torch.tensor([[0.72, 0.2, 0.08], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.1, 0.81, 0.09]])
    got = evaluation.reliability(probabilities.log(), torch.tensor([0, 1, 1, 1]))
    filled = {
        i: (n, got["confidence"][i], got["accuracy"][i])
        for i, n in enumerate(got["count"])
        if got["accuracy"][i] is not None
    }
    assert filled == {9: (1, 0.6, 0.0), 10: (2, 0.71, 0.5), 12: (1, 0.81, 1.0)}
    assert [len(values) for values in got.values()] == [15, 15, 15]
    assert got["count"][0] == 0
    assert got["confidence"][0] is None


def test_certain_predictions_are_in_the_last_bin():
    """Wrong and right ones of one bin cancel; torchmetrics 1.9 keeps those of confidence 1 in a sixteenth bin."""
    logits, labels = torch.tensor([[200.0, 0, 0], [4.0, 0, 0]]), torch.tensor([1, 0])
    got = evaluation.reliability(logits, labels)
    assert (got["count"][-1], got["accuracy"][-1]) == (2, 0.5)
    assert evaluation.measure(logits, labels)["ece"] == pytest.approx(100 * (got["confidence"][-1] - 0.5), abs=1e-2)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 400), sharpness=st.floats(0.1, 300))
def test_calibration_error_is_that_of_the_bins(seed, images, sharpness):
    random = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(images, 7, generator=random)
    labels = torch.randint(7, (images,), generator=random)
    got, ece = evaluation.reliability(logits, labels), evaluation.measure(logits, labels)["ece"]
    filled = [bin_ for bin_ in zip(got["count"], got["confidence"], got["accuracy"], strict=True) if bin_[0]]
    assert sum(n / images * abs(accuracy - confidence) for n, confidence, accuracy in filled) == pytest.approx(
        ece / 100, abs=1.1e-4
    )
    assert sum(n for n, *_ in filled) == images
    if sharpness < 3:  # no confidence is 1 in float32
        expected = multiclass_calibration_error(logits.softmax(1), labels, num_classes=7, n_bins=15, norm="l1")
        assert ece == pytest.approx(100 * float(expected), abs=1e-2)


@pytest.mark.parametrize(
    ("name", "parameters", "millions"), [("resnet20", 278_324, 40.8), ("resnet56", 861_620, 125.5)]
)
def test_cost_of_published_networks(name, parameters, millions):
    """He et al., CVPR 2016, and the parameter counts of the published code."""
    got = evaluation.cost(networks.create(name, 100), 32)
    assert got["parameters"] == parameters
    assert got["multiply_adds"] / 1e6 == pytest.approx(millions, rel=0.02)


def test_best_epoch():
    assert evaluation.best_top1(pd.DataFrame({"test_top1": [50.0, 60.123456, 55.0]})) == 60.1235


def test_best_epoch_is_the_first_of_those_that_are_best_on_validation_images():
    history = pd.DataFrame({"val_top1": [40.0, 45.0, 45.0, 41.0], "test_top1": [50.0, 52.0, 60.0, 70.0]})
    assert evaluation.best_top1(history) == 52.0


CARD = {"pair": "resnet14-resnet8", "cells": [{"name": "resnet14-resnet8-vanilla-base-0", "method": "vanilla"}]}


class TestPair:
    @pytest.fixture
    def evaluate(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        teacher, student = (loop.create(name, 10, 0, CPU) for name in ("resnet14", "resnet8"))
        run_folder.write(tmp_path / "teacher", teacher, [], {})
        meta = {**CARD["cells"][0], "recipe": {"ce_weight": 1.0}, "train": {"epochs": 2}, "commit": "abc",
                "device": "cpu: x", "threads": 1, "processes": 1, "computed_in": "float32", "versions": {}}  # fmt: skip

        def evaluate(network=student, card=CARD, images=dataset, val_top1=(), top1=None, **changes):
            folder = tmp_path / "runs/resnet14-resnet8/resnet14-resnet8-vanilla-base-0"
            more = [{"val_top1": value} for value in val_top1] or [{}, {}]
            last = top1_of(network, images) if top1 is None else top1
            rows = [
                {"epoch": epoch, "train_top1": 50.0, "test_top1": last + 2 - epoch, **more[epoch - 1]}
                for epoch in (1, 2)
            ]
            run_folder.write(folder, network, rows, {**meta, **changes})
            return evaluation.evaluate_pair(card, images, tmp_path / "teacher" / run_folder.WEIGHTS, CPU)

        return evaluate

    def test_summary(self, evaluate):
        summary, curves = evaluate()
        cell = summary["cells"][0]
        assert cell["top1_best"] == pytest.approx(cell["top1"] + 1, abs=1e-4)
        assert cell["recipe"] == {"ce_weight": 1.0}
        assert summary["teacher"]["agreement"] == 100
        assert cell["epochs"] == 2
        assert {"threads", "processes", "commit"} <= set(cell)
        weights = Path("runs/resnet14-resnet8/resnet14-resnet8-vanilla-base-0") / run_folder.WEIGHTS
        assert cell["weights_sha256"] == file_sha256(weights)
        assert sum(cell["reliability"]["count"]) == sum(summary["teacher"]["reliability"]["count"]) > 0
        assert summary["student"]["parameters"] < summary["teacher"]["parameters"]
        assert curves["cell"].tolist() == ["resnet14-resnet8-vanilla-base-0"] * 2
        assert not {"val_top1", "per_class"} & set(cell)
        json.dumps(summary)

    def test_with_validation(self, evaluate):
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
        student = loop.create("resnet8", 10, 0, CPU)
        summary, curves = evaluate(student, {**CARD, "validation": 0.25}, dataset, (20.0, 30.0), validation=0.25,
                                   train={"epochs": 2, "per_class": 2})  # fmt: skip
        (cell,), images = summary["cells"], subsets.chosen(dataset, validation=0.25).validation
        right = predict(student, images, dataset, CPU).argmax(dim=1) == torch.from_numpy(images.labels)
        assert cell["val_top1"] == 100 * right.sum().item() / 10
        assert cell["top1_best"] == cell["top1"]  # of epoch 2, though epoch 1 is better on the test images
        assert (summary["train_images"], cell["per_class"]) == (30, 2)
        assert curves["val_top1"].tolist() == [20.0, 30.0]

    @pytest.mark.parametrize(("card", "run"), [({"validation": 0.25}, {}), ({}, {"validation": 0.25})])
    def test_runs_with_validation_and_without_are_of_other_cards(self, evaluate, card, run):
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
        with pytest.raises(UserError, match=r"meta\.json: is of another card"):
            evaluate(card={**CARD, **card}, images=dataset, val_top1=(20.0, 30.0), **run)

    def test_a_student_with_another_end_has_its_own_cost(self, evaluate):
        """And the pair's student has that of the plain network, wherever such a cell stands."""
        name = "resnet14-resnet8-simkd-base-0"
        card = {**CARD, "cells": [*CARD["cells"], {"name": name, "method": "simkd"}]}
        plain = loop.create("resnet8", 10, 0, CPU)
        student = methods.get("simkd").other_end(
            loop.create("resnet8", 10, 0, CPU), outputs=64, factor=2, size=[4, 4], bias=True
        )
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        rows = [{"epoch": epoch, "train_top1": 50.0, "test_top1": top1_of(student, dataset)} for epoch in (1, 2)]
        meta = {**card["cells"][1], "recipe": {}, "train": {"epochs": 2}, "commit": "abc", "device": "cpu: x",
                "threads": 1, "processes": 1, "computed_in": "float32", "versions": {}}  # fmt: skip
        run_folder.write(Path("runs/resnet14-resnet8") / name, student, rows, meta)
        for cells in (card["cells"], card["cells"][::-1]):
            summary, _ = evaluate(card={**card, "cells": cells})
            assert summary["student"] == evaluation.cost(plain, 16)
            by_method = {cell["method"]: cell for cell in summary["cells"]}
            assert "cost" not in by_method["vanilla"]
            # the projector: 1 x 1, 3 x 3 and 1 x 1 convolutions of a map of 4 x 4 with their norms; the classifier is
            # one from 64 to 10 again, of which the parameters are counted though the teacher gave them
            layers = 64 * 32 + 32 * 32 * 9 + 32 * 64
            assert by_method["simkd"]["cost"] == {
                "parameters": summary["student"]["parameters"] + layers + 2 * (32 + 32 + 64),
                "multiply_adds": summary["student"]["multiply_adds"] + 4 * 4 * layers,
            }
        Path("e").mkdir()
        write_json(Path("e") / METRICS, {**summary, "cells": [
            {**cell, "pair": summary["pair"], "variant": "base", "seed": 0} for cell in summary["cells"]
        ]})  # fmt: skip
        assert [cell.get("cost") is None for cell in read_evaluation(Path("e"))["cells"]] == [False, True]
        write_json(Path("e") / METRICS, {**summary, "cells": [{**summary["cells"][0], "cost": {"parameters": 1}}]})
        with pytest.raises(UserError, match=r"metrics\.json: is damaged"):
            read_evaluation(Path("e"))

    def test_accepted_changes_of_code(self, evaluate):
        accepted = [{"reason": "renamed", "commit": "abc", "from": {}, "to": {}}]
        assert evaluate(accepted=accepted)[0]["cells"][0]["accepted"] == accepted
        assert "accepted" not in evaluate()[0]["cells"][0]

    @pytest.mark.parametrize(("changes", "message"), [
        ({"method": "at"}, r"meta\.json: is of another card"),
        ({"train": {"epochs": 3}}, r"history\.csv: is damaged \(it holds 2 epochs of 3"),
        ({"accepted": [{}]}, r"meta\.json: is damaged \(accepted\.0\.reason: Field required\)"),
        ({"train": {}}, r"meta\.json: is damaged \(train\.epochs: Field required\); run 'dvc checkout' or 'dvc repro'"),
    ])  # fmt: skip
    def test_run_of_something_else(self, evaluate, changes, message):
        with pytest.raises(UserError, match=message):
            evaluate(**changes)

    @pytest.mark.parametrize(("computed_in", "points"), [("float32", 1.0), ("bfloat16", 5.0)])
    def test_weights_that_are_not_those_of_the_history(self, evaluate, computed_in, points):
        """A file was replaced, or the network has a state that is no part of its state dict."""
        top1 = evaluate()[0]["cells"][0]["top1"]
        for trained in (top1 - 0.99 * points, top1 + 0.99 * points):
            evaluate(top1=trained, computed_in=computed_in)
        for trained in (top1 - 1.01 * points, top1 + 1.01 * points):
            message = (
                rf"weights\.safetensors: has {top1:.2f}% \(top1\), and in training it had {trained:.2f}% after the"
            )
            with pytest.raises(UserError, match=message):
                evaluate(top1=trained, computed_in=computed_in)

    def test_three_images_may_differ_however_few_there_are(self):
        history = pd.DataFrame({"test_top1": [50.0], "ema_test_top1": [50.0]})
        cell = evaluation.TrainedCell({}, Path("cell"), {"computed_in": "float32"}, history)
        for key, measured in (("top1", {}), ("top1_ema", {"top1": 50.0})):
            evaluation._check_restored(cell, {**measured, key: 80.0}, 10)
            with pytest.raises(UserError, match=rf"has 90\.00% \({key}\), and in training it had 50\.00%"):
                evaluation._check_restored(cell, {**measured, key: 90.0}, 10)

    def test_weights_that_are_not_finite(self, evaluate):
        broken = loop.create("resnet8", 10, 0, CPU)
        with torch.no_grad():
            broken.classifier.bias[0] = float("inf")
        with pytest.raises(UserError, match="not finite"):
            evaluate(broken)
