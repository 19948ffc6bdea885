"""Metrics by hand, cost against published counts, and a pair evaluated from its folders."""

import json
import math

import pandas as pd
import pytest
import torch

from kdcore import checkpoints, evaluation, networks, runs, teachers, training
from kdcore.data import digits
from kdcore.errors import UserError

CPU = torch.device("cpu")


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


CARD = {"pair": "resnet14-resnet8", "cells": [{"name": "resnet14-resnet8-vanilla-0", "method": "vanilla"}]}


class TestPair:
    @pytest.fixture
    def evaluate(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=1)
        teacher, student = (training.create(name, 10, 0, CPU) for name in ("resnet14", "resnet8"))
        runs.write(tmp_path / "teacher", teacher, [], {})
        history = [{"epoch": 1, "test_top1": 12.0}, {"epoch": 2, "test_top1": 11.0}]
        meta = {"recipe": {"ce_weight": 1.0}, **dict.fromkeys(evaluation.PROVENANCE, "x")}

        def evaluate(network=student):
            runs.write(tmp_path / "runs/resnet14-resnet8/resnet14-resnet8-vanilla-0", network, history, meta)
            return evaluation.evaluate_pair(CARD, dataset, tmp_path / "teacher" / runs.WEIGHTS, CPU)

        return evaluate

    def test_summary(self, evaluate):
        summary, curves = evaluate()
        cell = summary["cells"][0]
        assert cell["top1_best"] == 12.0
        assert cell["recipe"] == {"ce_weight": 1.0}
        assert summary["teacher"]["agreement"] == 100
        assert summary["student"]["parameters"] < summary["teacher"]["parameters"]
        assert curves["cell"].tolist() == ["resnet14-resnet8-vanilla-0"] * 2
        json.dumps(summary)

    def test_missing_cell(self, tmp_path):
        with pytest.raises(UserError, match=r"meta\.json: cannot be read"):
            runs.read_meta(tmp_path / "runs/resnet14-resnet8/resnet14-resnet8-vanilla-0")

    def test_weights_that_are_not_finite(self, evaluate):
        broken = training.create("resnet8", 10, 0, CPU)
        with torch.no_grad():
            broken.classifier.bias[0] = float("inf")
        with pytest.raises(UserError, match="not finite"):
            evaluate(broken)


class TestTeachers:
    @pytest.fixture
    def checkpoint(self, tmp_path):
        import hashlib

        torch.manual_seed(0)
        torch.save({"model": networks.create("resnet8", 10).state_dict()}, tmp_path / "resnet8.pth")
        digest = hashlib.sha256((tmp_path / "resnet8.pth").read_bytes()).hexdigest()
        return {"name": "resnet8", "student": "resnet8", "source": str(tmp_path / "resnet8.pth"), "sha256": digest,
                "published_top1": 10.0, "tolerance": 10.0}  # fmt: skip

    @pytest.fixture
    def dataset(self):
        return digits.fetch(source="embedded", image_size=16, train_per_class=1)

    def test_adopted_with_its_measured_accuracy(self, checkpoint, dataset, tmp_path):
        top1 = teachers.adopt(checkpoint, dataset, tmp_path / "out", CPU)
        assert runs.read_meta(tmp_path / "out")["top1"] == pytest.approx(top1, abs=1e-4)
        checkpoints.restore("resnet8", 10, tmp_path / "out" / runs.WEIGHTS, CPU)

    def test_far_below_its_published_accuracy(self, checkpoint, dataset, tmp_path):
        with pytest.raises(UserError, match=r"points below the published 90\.00% \(allowed: 10\.0\)"):
            teachers.adopt({**checkpoint, "published_top1": 90.0}, dataset, tmp_path / "out", CPU)
        assert not (tmp_path / "out").exists()

    def test_another_file(self, checkpoint, dataset, tmp_path):
        with pytest.raises(UserError, match="has sha256"):
            teachers.adopt({**checkpoint, "sha256": "0" * 64}, dataset, tmp_path / "out", CPU)

    def test_address(self, checkpoint, dataset, tmp_path, server):
        url = f"{server}/resnet8.pth"
        teachers.adopt({**checkpoint, "source": url}, dataset, tmp_path / "out", CPU)
        with pytest.raises(UserError, match="could not be downloaded or is another file"):
            teachers.adopt({**checkpoint, "source": url, "sha256": "0" * 64}, dataset, tmp_path / "other", CPU)
        with pytest.raises(UserError, match="could not be downloaded"):
            teachers.adopt({**checkpoint, "source": f"{server}/none.pth"}, dataset, tmp_path / "other", CPU)

    @pytest.fixture
    def server(self, tmp_path):
        import functools
        import http.server
        import threading

        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
