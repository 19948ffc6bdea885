"""Numbers that are none, or absurd, stop a run; networks that have learnt nothing are named where they are counted."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from kdcore import checkpoints, networks
from kdcore.data import storage
from kdcore.data.dataset import Split
from kdcore.data.sources import digits
from kdcore.matrix.cell import RUNS
from kdcore.objective import Objective
from kdcore.results import captions, evaluation, tables
from kdcore.results.report import page
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import collapse, experiment, finite, loop, run_folder
from kdcore.training.finite import NotFiniteError
from kdcore.training.state import ResumeState
from tests import made_up
from tests.train import CPU, as_card, card, carry_on, changed, top1_of, train, training_settings

SETTINGS = training_settings(2, 16, 0.02, weight_decay=0.0)
ONE_STEP = changed(SETTINGS, batch_size=40)
HUGE = 1e30
MADE = {"recipe": {}, "train": {"epochs": 1}, "commit": "abc", "device": "cpu: x", "threads": 1, "processes": 1,
        "computed_in": "float32", "versions": {}}  # fmt: skip


@pytest.fixture(scope="module")
def dataset():
    made = digits.fetch(source="embedded", image_size=16, train_per_class=4)
    return replace(made, test=Split(made.test.images[::40], made.test.labels[::40]))


def prepared(dataset, method, settings, **options):
    teacher = None if method == "vanilla" else loop.create("wrn_16_1", 10, 7, CPU)
    return loop.prepare(card("wrn_16_1-resnet8", method, as_card(settings)), dataset, teacher, device=CPU, **options)


def message_of(run, dataset, error=NotFiniteError):
    with pytest.raises(error) as raised:
        loop.train(run, loop.create("wrn_16_1", 10, 7, CPU), dataset)
    return str(raised.value)


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"optimizer": "dot", "dot_delta": 0.075}])
@pytest.mark.parametrize("method", ["vanilla", "kd", "mlkd", "crd+ctkd"])
def test_losses_that_are_no_numbers(dataset, method, changes):
    said = message_of(prepared(dataset, method, changed(SETTINGS, lr=HUGE, **changes)), dataset)
    assert said.startswith(f"{card('wrn_16_1-resnet8', method, {})['name']}: epoch 1, step 2 of 3: loss nan, ce nan")
    last = said.partition("; the last finite ones: ")[2].removesuffix(f". {finite.ADVICE}")
    values = dict(value.rsplit(" ", 1) for value in last.split(", "))
    assert set(values) == {"loss", "ce", *(method.split("+") if method != "vanilla" else [])}
    assert all(np.isfinite(float(value)) for value in values.values())


class Vanishing(Objective):
    """Cross-entropy, and nothing, of which the gradient is none: that of a root at 0."""

    def losses(self, student, lesson):
        ce, losses = super().losses(student, lesson)
        logits = student[0].logits
        return ce + (logits - logits.detach()).square().sum().sqrt(), losses


def exploded(dataset, goal, settings):
    student = loop.create("resnet8", 10, 0, CPU)
    with pytest.raises(NotFiniteError) as raised:
        train(student, None, goal, dataset, settings, name="cell")
    return str(raised.value)


def test_gradients_that_are_no_numbers(dataset):
    """In the last step of all, after which no loss would show them."""
    said = exploded(dataset, Vanishing(1.0), changed(ONE_STEP, epochs=1))
    assert said.startswith("cell: epoch 1, after step 1 of 1: conv1.weight holds nan; the losses are finite: loss 2.")


def test_gradients_that_are_absurd(dataset):
    """The loss stays finite: batch norm divides by the weights' length."""
    said = exploded(dataset, Objective(1.0), changed(ONE_STEP, lr=1e9, epochs=1))
    assert "conv1.weight holds" in said
    assert float(said.partition(" holds ")[2].partition(";")[0]) > finite.LARGEST
    assert "step 1 of 1" in said
    assert "the losses are finite: loss 2." in said


def test_adapters_count_too(dataset):
    run = prepared(dataset, "vid", changed(ONE_STEP, lr=1e-30))
    with torch.no_grad():
        next(run.objective.parameters()).fill_(2 * finite.LARGEST)
    assert "holds 2e+06; the losses are finite" in message_of(run, dataset)


def test_running_statistics_that_are_no_numbers(dataset):
    run = prepared(dataset, "vanilla", ONE_STEP)
    next(value for name, value in run.student.named_buffers() if name.endswith("running_var")).fill_(torch.inf)
    assert "running_var holds inf; the losses are finite" in message_of(run, dataset)


def test_infinities_by_design_are_no_explosion(dataset):
    """Such as those of an attention mask; nor is a buffer without values."""
    student = loop.create("resnet8", 10, 0, CPU)
    student.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    student.register_buffer("nothing", torch.empty(0))
    run = loop.Run(student, Objective(1.0), ONE_STEP, seed=0, device=CPU)
    loop.train(run, None, dataset)
    assert len(run.history) == ONE_STEP.epochs


def test_logits_that_are_no_numbers(dataset, monkeypatch):
    run = prepared(dataset, "vanilla", ONE_STEP)
    monkeypatch.setattr(loop, "predict", lambda *_: torch.full((len(dataset.test.labels), 10), torch.nan))
    assert "logits of test images are not finite; the losses are finite" in message_of(run, dataset)


def test_last_good_state_is_kept(dataset, tmp_path):
    """That of the epoch before."""
    state = ResumeState(tmp_path / "cell-0.pt")
    run = prepared(dataset, "kd", SETTINGS)
    rate = loop.learning_rate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "learning_rate", lambda settings, epoch: HUGE if epoch == 2 else rate(settings, epoch))
        with pytest.raises(NotFiniteError, match="epoch 2, step 2 of 3"):
            carry_on(run, loop.create("wrn_16_1", 10, 7, CPU), dataset, state)
    loaded = state.load()
    assert len(loaded["history"]) == 1
    assert all(torch.isfinite(value).all() for value in loaded["student"].values())


class TestCollapse:
    @pytest.mark.parametrize(("predicted", "train_top1", "found"), [
        (1, [90.0], "predicts one class for all test images"),
        (2, [90.0] * 3, None),
        (10, [10.0] * 3, "fits the training images no better than chance in the last 3 epochs"),
        (10, [90.0, 10.0, 11.0, 9.0], "fits the training images no better than chance in the last 3 epochs"),
        (10, [10.0, 10.0, 14.0], "fits the training images no better than chance in the last 3 epochs"),
        (10, [10.0, 10.0, 18.0], None),
        (10, [10.0, 10.0], None),  # too early to say
        (10, [], None),
    ])  # fmt: skip
    def test_reasons(self, predicted, train_top1, found):
        """Of 200 images of ten classes, chance is 10 percent, and its error over three epochs 1.2."""
        assert collapse.reason(predicted, train_top1, np.arange(200) % 10) == found

    def test_chance_is_the_largest_class(self):
        labels = np.array([0] * 90 + [1] * 10)
        assert collapse.reason(2, [91.0] * 3, labels) is not None
        assert collapse.reason(2, [97.0] * 3, labels) is None

    @pytest.fixture
    def project(self, tmp_path, monkeypatch, dataset):
        monkeypatch.chdir(tmp_path)
        with whole(tmp_path / "data/digits") as folder:
            storage.save(dataset, folder)
        return tmp_path

    @pytest.mark.parametrize(("lr", "epochs"), [(1e-9, 3), (0.02, 8)])
    def test_a_cell_that_learns_nothing_says_so(self, project, capsys, lr, epochs):
        settings = {
            key: value for key, value in as_card(changed(SETTINGS, lr=lr, epochs=epochs)).items() if value is not None
        }
        cell = card("resnet8-resnet8", "vanilla", settings) | {"data": "digits", "pair": "resnet8-resnet8"}
        yamlfile.write(project / "cell.yaml", cell)
        experiment.run(project / "cell.yaml", project / "out")
        warned = f"warning: {cell['name']}: collapsed: " in capsys.readouterr().err
        history = pd.read_csv(project / "out/history.csv")
        assert warned == (lr < 1e-3)
        assert warned == (history["train_top1"].iloc[-3:].mean() < 20)

    @pytest.mark.parametrize("bias", [0.0, 100.0])
    def test_evaluations_say_so(self, project, dataset, bias):
        name, pair = "resnet8-resnet8-vanilla-base-0", "resnet8-resnet8"
        teacher, student = (loop.create("resnet8", 10, seed, CPU) for seed in (0, 1))
        with torch.no_grad():
            student.classifier.weight.mul_(10)
            student.classifier.bias[3] = bias
        run_folder.write(project / "teacher", teacher, [], {})
        meta = {**MADE, "name": name, "method": "vanilla"}
        history = [{"epoch": 1, "train_top1": 50.0, "test_top1": top1_of(student, dataset)}]
        run_folder.write(RUNS / pair / name, student, history, meta)
        cells = [{"name": name, "method": "vanilla"}]
        found, _ = evaluation.evaluate_pair(
            {"pair": pair, "cells": cells}, dataset, project / "teacher" / run_folder.WEIGHTS, CPU
        )
        expected = "predicts one class for all test images" if bias else None
        assert found["cells"][0].get("collapsed") == expected
        json.dumps(found)

    def test_tables_and_report_say_so(self, tmp_path):
        """Beside the mean, in which the seed stays."""
        results = made_up.matrix(pairs=made_up.PAIRS[:1])
        plain = captions.notes(results)
        assert not any(note.startswith("Collapsed") for note in plain)
        cells = results.evaluations[0]["cells"]
        cells[1]["collapsed"] = cells[4]["collapsed"] = "predicts one class for all test images"
        names = f"{cells[1]['name']}, {cells[4]['name']}"
        note = f"Collapsed, and counted in the means all the same: {names} (predicts one class for all test images)."
        assert [found for found in captions.notes(results) if found not in plain] == [note]
        assert f"<li>{note}</li>" in page.render(results)
        tables.write(results, tmp_path)
        assert f"- {note}\n" in (tmp_path / "cifar100.md").read_text()
        assert r"\par Collapsed, and counted" in (tmp_path / "cifar100.tex").read_text()
        table = pd.read_csv(tmp_path / "cells.csv").set_index("name")["collapsed"]
        assert table.notna().sum() == 2
        (entry,) = (one for one in results.entries if one.row.method == cells[1]["method"] and one.row.is_plain)
        assert entry.mean is not None
        assert len(entry.values) == 3


@pytest.mark.parametrize("student", [True, False])
def test_evaluation_refuses_logits_that_are_no_numbers(tmp_path, monkeypatch, dataset, student):
    """Of weights that are, but too large."""
    monkeypatch.chdir(tmp_path)
    good, bad = networks.create("resnet8", 10), networks.create("resnet8", 10)
    torch.nn.init.constant_(bad.classifier.weight, 3e38)
    checkpoints.save(good if student else bad, tmp_path / "teacher.safetensors")
    meta = {**MADE, "name": "cell", "method": "vanilla"}
    history = [{"epoch": 1, "train_top1": 50.0, "test_top1": 50.0}]
    run_folder.write(RUNS / "resnet8-resnet8/cell", bad if student else good, history, meta)
    of_pair = {"pair": "resnet8-resnet8", "cells": [{"name": "cell", "method": "vanilla"}]}
    which = "cell/weights" if student else "teacher"
    count = len(dataset.test.labels)
    with pytest.raises(UserError, match=rf"{which}\.safetensors: the logits of {count} of {count} test images are not"):
        evaluation.evaluate_pair(of_pair, dataset, tmp_path / "teacher.safetensors", CPU)
