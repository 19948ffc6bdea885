"""Networks that are not measured after every epoch: equal weights, histories with gaps, and what reads those."""

import json
import math

import pandas as pd
import pytest
import torch

from kdcore import checkpoints
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.matrix.cell import RUNS
from kdcore.matrix.fingerprint import ROOT
from kdcore.matrix.train_card import is_measured
from kdcore.results import captions, dvc_plots, evaluation, partial, rows
from kdcore.results.report import charts
from kdcore.system import csvfile, yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import whole
from kdcore.training import experiment, loop, run_folder
from kdcore.training.finite import NotFiniteError
from kdcore.training.live import TrainingProgress
from kdcore.training.pulse import live_file, pulse_file
from kdcore.tuning.trial import Reports
from tests import made_up
from tests.project import PARAMS
from tests.train import CPU, as_card, card, training_settings

PAIR = "resnet8-resnet8"
NAME = f"{PAIR}-vanilla-base-0"
EPOCHS, EVERY = 5, 2
DUE = [False, True, False, True, True]
ACCURACIES = ["val_top1", "test_top1", "ema_val_top1", "ema_test_top1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of a run that was measured after every epoch, and of one that was measured after every second."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
    cards = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with whole(folder / "data/digits") as data:
            storage.save(dataset, data)
        for name, changes in {"each": {}, "second": {"evaluate_every": EVERY}}.items():
            settings = as_card(training_settings(EPOCHS, 16, 0.02, ema=0.8, **changes))
            cards[name] = card(PAIR, "vanilla", settings) | {"data": "digits", "pair": PAIR, "validation": 0.25}
            yamlfile.write(folder / f"{name}.yaml", cards[name])
            experiment.run(folder / f"{name}.yaml", folder / name)
    return folder, cards, dataset


def gaps(history):
    return {column: history[column].notna().tolist() for column in history}


@pytest.mark.parametrize(("epochs", "every", "due"), [
    (5, 2, [2, 4, 5]), (6, 3, [3, 6]), (3, 9, [3]), (3, 1, [1, 2, 3]), (3, None, [1, 2, 3]),
])  # fmt: skip
def test_the_last_epoch_is_measured_and_those_that_are_divided(epochs, every, due):
    assert [epoch for epoch in range(1, epochs + 1) if is_measured(epoch, epochs=epochs, every=every)] == due


def test_weights_have_the_same_bits_and_what_is_measured_the_same_numbers(trained):
    folder, _, _ = trained
    for file in (run_folder.WEIGHTS, run_folder.AVERAGE):
        assert (folder / "each" / file).read_bytes() == (folder / "second" / file).read_bytes()
    each, second = (pd.read_csv(folder / name / run_folder.HISTORY) for name in ("each", "second"))
    assert list(each) == list(second)
    assert gaps(second) == {column: DUE if column in ACCURACIES else [True] * EPOCHS for column in each}
    pd.testing.assert_frame_equal(each[DUE], second[DUE])
    others = [column for column in each if column not in ACCURACIES]
    pd.testing.assert_frame_equal(each[others], second[others])


def test_a_folder_is_whole_with_its_gaps_and_damaged_with_others(trained, tmp_path):
    folder, cards, _ = trained
    run_folder.check(folder / "second", cards["second"])
    for card_of, column, epoch in (("second", "test_top1", 3), ("second", "ema_val_top1", 5), ("each", "val_top1", 0)):
        out = tmp_path / f"{card_of}-{column}"
        out.mkdir()
        for file in (folder / card_of).iterdir():
            (out / file.name).write_bytes(file.read_bytes())
        history = pd.read_csv(out / run_folder.HISTORY)
        history.loc[epoch, column] = math.nan
        csvfile.write(out / run_folder.HISTORY, history)
        with pytest.raises(UserError, match="is damaged"):
            run_folder.check(out, cards[card_of])
        with pytest.raises(UserError, match=r"history\.csv: is damaged"):
            run_folder.read_history(out / run_folder.HISTORY, cards[card_of])


def test_an_interrupted_run_goes_on_to_the_same_bits(trained, tmp_path, monkeypatch):
    folder, cards, _ = trained
    monkeypatch.chdir(folder)
    told = []

    def stop(history):
        told.append([row["test_top1"] for row in history])
        if len(history) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(folder / "second.yaml", tmp_path / "out", watch=stop)
    assert [math.isfinite(value) for value in told[-1]] == DUE[:3]
    pulse = json.loads(pulse_file(NAME).read_text())
    assert (pulse["epoch"], pulse["test_top1"]) == (3, told[-1][1])
    unfinished = run_folder.read_history(live_file(NAME), cards["second"])
    assert gaps(unfinished)["test_top1"] == DUE[:3]
    assert str(partial.Unfinished(NAME, EPOCHS, unfinished)) == f"{NAME}: 3 of 5 epochs, {told[-1][1]:.2f}%"
    assert str(partial.Unfinished(NAME, EPOCHS, unfinished[:1])) == f"{NAME}: 1 of 5 epochs, not measured yet"
    experiment.run(folder / "second.yaml", tmp_path / "out")
    for file in (run_folder.WEIGHTS, run_folder.HISTORY):
        assert (tmp_path / "out" / file).read_bytes() == (folder / "second" / file).read_bytes()


def test_progress_shows_what_was_measured_last():
    progress = TrainingProgress("cell", EPOCHS, 40, shown=False)
    rows = [{"epoch": epoch, "loss": 1.0, "test_top1": value} for epoch, value in ((1, math.nan), (2, 50.0))]
    with progress:
        progress.callbacks.on_epoch(rows[0])
        assert "nan" not in progress.state
        progress.callbacks.on_epoch(rows[1])
        progress.callbacks.on_epoch({**rows[0], "epoch": 3})
        assert "epoch 3  loss 1.000  test 50.00%" in progress.state


def test_weights_that_explode_are_noticed_after_every_epoch():
    dataset = digits.fetch(source="embedded", image_size=16, train_per_class=4)
    settings = as_card(training_settings(EPOCHS, 1000, 0.02, evaluate_every=EPOCHS))
    run = loop.prepare(card(PAIR, "vanilla", settings), dataset, None, device=CPU)
    training = loop.steps(run, None, dataset)
    next(training)
    with torch.no_grad():
        run.student.classifier.weight[0, 0] = 1e30
    with pytest.raises(NotFiniteError, match=r"epoch 1, after step 1 of 1: fc\.weight holds 1e\+30"):
        for _ in training:
            pass


def test_evaluation_takes_the_best_of_the_epochs_that_were_measured(trained, tmp_path, monkeypatch):
    folder, _, dataset = trained
    monkeypatch.chdir(tmp_path)
    (RUNS / PAIR).mkdir(parents=True)
    (RUNS / PAIR / NAME).symlink_to(folder / "second")
    checkpoints.save(loop.create("resnet8", 10, 7, CPU), tmp_path / "teacher.safetensors")
    of_pair = {"pair": PAIR, "validation": 0.25, "cells": [{"name": NAME, "method": "vanilla"}]}
    summary, history = evaluation.evaluate_pair(of_pair, dataset, tmp_path / "teacher.safetensors", CPU)
    (cell,) = summary["cells"]
    chosen = history[DUE].set_index("epoch")
    assert cell["evaluate_every"] == EVERY
    assert cell["top1_best"] == pytest.approx(chosen["test_top1"][chosen["val_top1"].idxmax()], abs=1e-4)
    csvfile.write(tmp_path / rows.CURVES, history)
    rows.read_curves(tmp_path, summary)
    history.loc[3, "test_top1"] = math.nan
    csvfile.write(tmp_path / rows.CURVES, history)
    with pytest.raises(UserError, match=r"curves\.csv: is damaged"):
        rows.read_curves(tmp_path, summary)


def test_curves_are_drawn_through_the_epochs_that_were_measured():
    results = made_up.matrix()
    for history in results.histories.values():
        history.loc[history["epoch"] % 4 != 0, "test_top1"] = math.nan
    drawn = dvc_plots.curves(results)
    assert drawn["test_top1"].notna().all()
    assert set(drawn["epoch"] % 4) == {0}
    one = charts.curves(results)[0]
    assert one.groups
    first = results.histories[results.card["pairs"][0]]
    first.loc[first["cell"] == first["cell"].iloc[0], "test_top1"] = math.nan
    assert len(dvc_plots.curves(results)) < len(drawn)  # one of the row's seeds is not measured


class Told:
    """Stands for Optuna's trial."""

    def __init__(self):
        self.reported = {}

    def report(self, value, step):
        self.reported[step] = value

    def should_prune(self):
        return False


def test_a_search_judges_a_trial_by_the_epochs_that_were_measured():
    told = Told()
    reports, history = Reports(told, [3]), []
    for epoch, value in enumerate((math.nan, 20.0, 30.0), 1):
        history.append({"epoch": epoch, "val_top1": value})
        reports.add(history)
    assert told.reported == {2: 20.0, 3: 30.0}


def cards_of(**changes):
    content = yamlfile.read(PARAMS)
    content = {**content, **changes, "train": {**content["train"], **changes.get("train", {})}}
    files = {"published_recipes": "data/recipes.yaml", "known_teachers": "data/teachers.yaml"}
    return make_cards(
        params.Params.model_validate(content), **{key: yamlfile.read(ROOT / file) for key, file in files.items()}
    )


def test_cards_have_it_where_it_takes_effect():
    base = cards_of()
    assert cards_of(train={"evaluate_every": 1}) == base
    exceptions = [{"methods": ["dkd"], "evaluate_every": 1}, {"methods": ["at"], "evaluate_every": 9}]
    changed = cards_of(train={"evaluate_every": 6, "exceptions": exceptions})
    for name, old in base.items():
        if name.startswith(("train/", "baseline/")):
            new = changed[name]["train"]
            expected = {"dkd": None, "at": 9}.get(old["method"], 6)
            assert (new.get("evaluate_every"), {**new, "evaluate_every": None}) == (
                expected, {**old["train"], "evaluate_every": None}
            ), name  # fmt: skip
        elif name.startswith("teacher/"):
            assert changed[name] == old
    tables = changed["tables"]
    assert "methods at: evaluate_every 9" in " ".join(captions._training_notes(tables))
    best = captions.protocol({**tables, "accuracy": "top1_best"})
    assert best.startswith("of the best epoch of those that were measured (every epoch that 6 divides, and the last)")
    assert captions.protocol({**base["tables"], "accuracy": "top1_best"}).startswith("of the best epoch, chosen on the")
