"""Stage scripts from the command line, and one card carried out."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F

from kdcore import checkpoints, networks
from kdcore.catalog import levels
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.matrix import check
from kdcore.matrix.cards import make_cards
from kdcore.matrix.code import Code, check_code
from kdcore.networks import resnet
from kdcore.results import evaluation, trained_pair
from kdcore.system import yamlfile
from kdcore.system.errors import RunError, UserError
from kdcore.system.files import file_sha256, whole
from kdcore.system.git import code_version
from kdcore.training import adopt, device, experiment, provenance, run_folder, timings
from stages import evaluate, plan, run, tables, teacher
from tests.conftest import ROOT
from tests.project import PARAMS, copy_lists

CARD = {
    "name": "resnet8-resnet8-vanilla-base-0",
    "pair": "resnet8-resnet8",
    "student": "resnet8",
    "method": "vanilla",
    "seed": 0,
    "data": "digits",
    "recipe": {"ce_weight": 1.0},
    "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
              "schedule": "cosine", "precision": "float32"},
}  # fmt: skip


def call(folder, *arguments, **environment):
    """A stage script in another folder; returns its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a card and its data."""
    monkeypatch.chdir(tmp_path)
    with whole(tmp_path / "data/digits") as folder:
        storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=1), folder)
    yamlfile.write(tmp_path / "cards/baseline/cell.yaml", CARD)
    return tmp_path


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py")))
def test_scripts_are_thin(script):
    assert len((ROOT / f"stages/{script}.py").read_text().splitlines()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["data", "pairs", "tables", "teacher resnet8", "evaluate a-b", "train baseline x"])
def test_missing_card(tmp_path, stage):
    name, *arguments = stage.split()
    code, said = call(tmp_path, f"stages.{name}", *arguments)
    assert code == 2
    assert said.startswith("error: cards/")
    assert "Run 'dvc repro plan'" in said
    assert list(tmp_path.iterdir()) == []


def test_no_such_device(project):
    code, said = call(project, "stages.train", "baseline", "cell", KDCORE_DEVICE="cuda:99")
    assert (code, "KDCORE_DEVICE=cuda:99: no such device here" in said) == (2, True)
    assert not (project / "runs").exists()


def test_card_is_carried_out(project):
    experiment.run(project / "cards/baseline/cell.yaml", project / "out")
    meta = run_folder.read_meta(project / "out")
    assert {key: meta[key] for key in CARD} == CARD
    assert {"commit", "versions", "device", "threads"} <= set(meta)
    assert len((project / "out/history.csv").read_text().splitlines()) == 3


class StoppedError(Exception):
    """A tuner's, that has seen enough of a run."""


class TestValidation:
    @pytest.fixture
    def carried_out(self, project):
        """Carry out the card with other images; returns its folder."""
        with whole(project / "data/digits") as folder:
            storage.save(digits.fetch(source="embedded", image_size=16, train_per_class=4), folder)

        def carried_out(out="out", *, watch=None, **changes):
            yamlfile.write(project / "cards/baseline/cell.yaml", {**CARD, **changes})
            experiment.run(project / "cards/baseline/cell.yaml", project / out, watch=watch)
            return project / out

        return carried_out

    @staticmethod
    def columns(folder):
        return (folder / run_folder.HISTORY).read_text().splitlines()[0].split(",")[-3:]

    def test_images_are_kept_out_of_training(self, carried_out, capsys):
        folder = carried_out(validation=0.25)
        assert self.columns(folder) == ["train_top1", "val_top1", "test_top1"]
        assert run_folder.is_done(folder, {**CARD, "validation": 0.25})
        assert not run_folder.is_done(folder, CARD)
        assert not run_folder.is_done(carried_out("whole"), {**CARD, "validation": 0.25})

    def test_tuning(self, carried_out, project, capsys):
        """Reads no test image, and its run counts as whole for its own card alone."""
        tuned = {"validation": 0.25, "test": False}
        folder = carried_out(**tuned)
        assert self.columns(folder) == ["ce", "train_top1", "val_top1"]
        assert run_folder.is_done(folder, {**CARD, **tuned})
        assert not run_folder.is_done(folder, {**CARD, "validation": 0.25})
        assert run_folder.read_history(folder / run_folder.HISTORY, {**CARD, **tuned})["val_top1"].notna().all()
        assert "% (validation) in " in capsys.readouterr().err

    def test_tuning_needs_validation(self, carried_out):
        with pytest.raises(UserError, match="test: false needs validation"):
            carried_out(test=False)

    def test_who_watches_may_stop_a_run_and_go_on_later(self, carried_out, project):
        expected, seen = contents(carried_out("expected", validation=0.25)), []

        def watch(history):
            seen.append([row["val_top1"] for row in history])
            if len(seen) == 1:
                raise StoppedError

        with pytest.raises(StoppedError):
            carried_out(validation=0.25, watch=watch)
        assert not (project / "out").exists()
        assert contents(carried_out(validation=0.25, watch=watch)) == expected
        assert [len(values) for values in seen] == [1, 2]
        assert seen[1][0] == seen[0][0]
        assert not list(project.glob("scratch/states/*"))
        assert not list(project.glob("scratch/live/*"))

    @pytest.mark.parametrize(("changes", "message"), [
        ({"validation": 0.9}, "data.validation: 0.9: class '0' has 4 training images, and 4 of them for validation"),
        ({"train": {**CARD["train"], "per_class": 5}}, "train.per_class: 5: class '0' has 4 training images; lower it"),
    ])  # fmt: skip
    def test_refused_before_training(self, carried_out, project, changes, message):
        yamlfile.write(project / "cards/baseline/cell.yaml", {**CARD, **changes})
        code, said = call(project, "stages.train", "baseline", "cell")
        assert code == 2
        assert said.startswith(f"error: {message}")
        assert not (project / "scratch").exists()
        yamlfile.write(project / "cards/teacher/cell.yaml", {**CARD, **changes, "source": "train", "name": "mine"})
        with pytest.raises(UserError, match=r"data.validation: 0.9|teachers.mine.train.per_class: 5"):
            teacher.main("cell")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_card_carried_out_again_gives_the_same_bytes(project):
    card_file = project / "cards/baseline/cell.yaml"
    for out in ("out", "again"):
        experiment.run(card_file, project / out)
    assert contents(project / "out") == contents(project / "again")
    first, second = timings.load()
    assert (first.name, first.student, first.method, first.epochs) == (CARD["name"], "resnet8", "vanilla", 2)
    assert first.card == second.card == file_sha256(card_file)
    assert first.bytes == sum(len(content) for content in contents(project / "out").values())
    assert first.seconds > 0
    assert first.images_per_second > 0


class TestThreads:
    @pytest.fixture(autouse=True)
    def own(self):
        """As before, afterwards."""
        yield
        device.use_threads(None)

    @pytest.mark.slow
    def test_are_those_of_the_card_whatever_the_environment(self, project):
        card = {**CARD, "train": {**CARD["train"], "threads": 1}}
        yamlfile.write(project / "cards/baseline/cell.yaml", card)
        found = []
        for threads in ("1", "2"):
            code, said = call(project, "stages.train", "baseline", "cell", OMP_NUM_THREADS=threads)
            assert code == 0, said
            found.append(contents(project / "runs/resnet8-resnet8/cell"))
        assert found[0] == found[1]
        assert json.loads(found[0]["meta.json"])["threads"] == 1

    @pytest.mark.slow
    def test_are_torchs_own_where_the_card_names_none(self, project):
        for threads in ("1", "2"):
            code, said = call(project, "stages.train", "baseline", "cell", OMP_NUM_THREADS=threads)
            assert code == 0, said
            assert run_folder.read_meta(project / "runs/resnet8-resnet8/cell")["threads"] == int(threads)

    def test_of_a_card_do_not_outlast_it(self):
        device.use_threads(3)
        assert torch.get_num_threads() == 3
        device.use_threads(None)
        assert torch.get_num_threads() == device.OWN_THREADS

    def test_of_evaluation(self, project, monkeypatch):
        yamlfile.write(project / "cards/evaluate/a-b.yaml", {"data": "digits", "threads": 3, "cells": []})
        monkeypatch.setattr(evaluation, "evaluate_pair", self.ends_with_threads)
        with pytest.raises(RunError, match="3 threads"):
            evaluate.main("a-b")

    def test_of_adopted_teachers(self, project, monkeypatch):
        yamlfile.write(project / "cards/teacher/resnet8.yaml", {"data": "digits", "source": "x.pth", "threads": 3})
        monkeypatch.setattr(adopt, "adopt_teacher", self.ends_with_threads)
        with pytest.raises(RunError, match="3 threads"):
            teacher.main("resnet8")

    @staticmethod
    def ends_with_threads(*_arguments, **_options):
        raise RunError(f"{torch.get_num_threads()} threads")


def test_loss_that_is_not_finite_names_the_cell(project):
    card = {**CARD, "train": {**CARD["train"], "lr": 1e30}}
    yamlfile.write(project / "cards/baseline/cell.yaml", card)
    with pytest.raises(RunError, match="resnet8-resnet8-vanilla-base-0: epoch 1, step 2 of 2"):
        experiment.run(project / "cards/baseline/cell.yaml", project / "out")
    assert not (project / "out").exists()
    code, said = call(project, "stages.train", "baseline", "cell")
    assert (code, said.count("\n")) == (1, 1)


def test_teacher_of_other_classes(project):
    checkpoints.save(networks.create("resnet8", 100), project / "teacher.safetensors")
    yamlfile.write(project / "cards/train/cell.yaml", {**CARD, "method": "kd", "teacher": "resnet8"})
    with pytest.raises(UserError, match=r"fc\.weight: \(100, 64\) in the file, \(10, 64\) in the network"):
        experiment.run(
            project / "cards/train/cell.yaml", project / "out", teacher_weights=project / "teacher.safetensors"
        )


class TestRegions:
    """A network without logits for regions trains with M=[1] alone; others are refused before their first step."""

    @pytest.fixture
    def normed(self, project, monkeypatch):
        """In this project resnet8 has a norm between the average and the classifier."""
        forward = resnet.ResNet.forward

        def with_norm(self, images):
            output = forward(self, images)
            return output._replace(logits=self.fc(F.layer_norm(output.pooled, output.pooled.shape[1:])))

        monkeypatch.setattr(resnet.ResNet, "forward", with_norm)
        checkpoints.save(networks.create("resnet8", 10), project / "teacher.safetensors")
        return project

    @staticmethod
    def train(project, scale, **card):
        recipe = {"ce_weight": 1.0, "kd_weight": 1.0, "temperature": 2.0, "warmup": 0, "complementary_weight": 2.0,
                  "decoupling": "sdd"}  # fmt: skip
        content = {**CARD, "method": "kd", "teacher": "resnet8", "recipe": recipe, "stand": False, "scale": scale}
        yamlfile.write(project / "cards/train/cell.yaml", {**content, "levels": list(levels(scale)), **card})
        weights = project / "teacher.safetensors"
        experiment.run(project / "cards/train/cell.yaml", project / "out", teacher_weights=weights)

    def test_refused_with_exit_code_2(self, normed):
        with pytest.raises(UserError, match=r"teacher resnet8 can have no regions \(M=\[1,2\]\): its logits are not"):
            self.train(normed, 2)
        assert not (normed / "out").exists()
        assert not list(normed.glob("scratch/states/*"))

    def test_the_student_too(self, normed, monkeypatch):
        asked = []
        monkeypatch.setattr(experiment.regions, "check_regions", lambda *given, **_: asked.append(given[1:]))
        self.train(normed, 2)
        assert asked == [("teacher resnet8", [1, 2]), ("student resnet8", [1, 2])]

    def test_one_region_still_trains(self, normed):
        self.train(normed, 1)
        assert (normed / "out" / run_folder.WEIGHTS).is_file()


def test_folder_is_whole_or_absent(tmp_path):
    with whole(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), whole(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "out/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_takes_its_place_whatever_stands_there(tmp_path):
    (tmp_path / ".out.unfinished").touch()
    (tmp_path / ".out.replaced").touch()
    (tmp_path / "out").symlink_to("nowhere")
    for content in ("1", "2"):
        with whole(tmp_path / "out") as folder:
            (folder / "a").write_text(content)
        assert (tmp_path / "out/a").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_something_else_in_the_place_of_ours_is_named(project):
    (project / "scratch").touch()
    code, said = call(project, "stages.train", "baseline", "cell")
    assert code == 2
    assert said.endswith("scratch/states: Not a directory; something else stands in its place: move that away\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_of_which_a_library_makes_another_error(monkeypatch, capsys, number):
    """As safetensors does when a signal comes while it reads."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}

    def main():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    monkeypatch.setattr(sys, "argv", ["stages.train"])
    try:
        with pytest.raises(SystemExit) as ended:
            run(main)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "interrupted; run it again to go on from the last finished epoch\n"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_refused(monkeypatch, capsys, number):
    """Files would stand for them, which outlive a killed process, and no other machine can tell from its."""
    monkeypatch.setattr(sys, "argv", ["stages.train"])
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(SystemExit) as ended:
        run(lambda: pytest.fail("it began"))
    assert ended.value.code == 2
    assert "its file system has no locks (flock)" in capsys.readouterr().err


def test_ctrl_c_while_a_stage_imports(tmp_path):
    """One line, and no traceback."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    yamlfile.write(tmp_path / "cards/baseline/cell.yaml", CARD)
    code, said = call(tmp_path, "stages.train", "baseline", "cell", PYTHONPATH=path)
    assert (code, said) == (128 + signal.SIGINT, "interrupted; run it again to go on from the last finished epoch\n")


def test_code_that_changed_after_the_plan(project):
    """A card of other code trains nothing: its results would be taken for those of that code."""
    yamlfile.write(project / "cards/baseline/cell.yaml", {**CARD, "code": {"trainer": "0" * 16}})
    code, said = call(project, "stages.train", "baseline", "cell")
    assert code == 2
    assert "cards/baseline/cell.yaml: the code has changed since the plan (trainer, student)" in said


def test_code_that_was_loaded_before_it_changed(project, monkeypatch):
    """As by a sweep's fork server: the card is of the files, and the process computes by what they were."""
    card = {**CARD, "code": Code(ROOT).training("resnet8")}
    yamlfile.write(project / "cards/baseline/cell.yaml", card)
    monkeypatch.setattr(experiment, "LOADED", {"trainer": "0" * 16})
    with pytest.raises(UserError, match=r"the code has changed since the plan \(trainer\)"):
        experiment.run(project / "cards/baseline/cell.yaml", project / "out")


def test_a_plan_refuses_changes_of_all_that_dvc_says_it_reads():
    (stage,) = [stage for name, stage in yamlfile.read(ROOT / "dvc.yaml")["stages"].items() if name == "plan"]
    assert sorted(stage["deps"]) == sorted(check.PLAN_READS)


@pytest.mark.parametrize("part", ["trainer", "images"])
def test_code_that_was_loaded_before_the_plan(part, tmp_path):
    """A process may have loaded an edit that is undone since."""
    train = {**CARD["train"], "label_noise": {"kind": "symmetric", "rate": 0.1}}
    card = {**CARD, "train": train, "code": Code(ROOT).training("resnet8", train=train)}
    loaded = Code(ROOT).shared()
    check_code(card, tmp_path, loaded=loaded)
    with pytest.raises(UserError, match=rf"the code has changed since the plan \({part}\)"):
        check_code(card, tmp_path, loaded={**loaded, part: "0" * 16})


@pytest.mark.parametrize("file", ["card", "manifest.json"])
def test_inputs_that_change_while_a_cell_is_trained(project, file):
    """DVC would record the new ones as those that it was trained from; with the old ones it goes on to its results."""
    card_file = project / "cards/baseline/cell.yaml"
    changed = card_file if file == "card" else project / "data/digits" / file
    before = changed.read_text()
    out = project / "runs/x"

    def edit(history):
        if len(history) == CARD["train"]["epochs"]:
            changed.write_text(f"{before}\n")

    with pytest.raises(UserError, match=rf"{changed.name}: has changed while {CARD['name']} was trained from it"):
        experiment.run(card_file, out, watch=edit)
    assert not out.exists()
    changed.write_text(before)
    experiment.run(card_file, out)
    assert run_folder.read_meta(out)["made_from"] == {"data": file_sha256(project / "data/digits/manifest.json")}


def test_a_cell_of_another_card_is_not_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pair, name = CARD["pair"], CARD["name"]
    yamlfile.write(Path(f"cards/baseline/{name}.yaml"), CARD)
    folder, meta = Path(f"runs/{pair}/{name}"), {**CARD, "commit": "abc"}
    trained_pair.check_card(folder, meta)
    yamlfile.write(Path(f"cards/baseline/{name}.yaml"), {**CARD, "seed": 1})
    with pytest.raises(UserError, match=rf"was made from another card than .*; run 'dvc repro -f baseline@{name}'"):
        trained_pair.check_card(folder, meta)


def test_params_that_change_while_they_are_planned(tmp_path, monkeypatch):
    """DVC would record the new ones beside cards of the old ones, for good."""
    monkeypatch.chdir(tmp_path)
    copy_lists(tmp_path)
    shutil.copy(PARAMS, "params.yaml")
    plan.main()

    def slow(*arguments, **lists):
        Path("params.yaml").write_text(f"{PARAMS.read_text()}\n# later\n")
        return make_cards(*arguments, **lists)

    monkeypatch.setattr(plan, "make_cards", slow)
    with pytest.raises(UserError, match=r"params\.yaml: has changed while it was read; run the same command again"):
        plan.main()


def test_tables_by_other_code_than_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yamlfile.write(Path("cards/tables.yaml"), {"code": {"publication": "0" * 16}})
    with pytest.raises(UserError, match=r"the code has changed since the plan \(publication\); run the same command"):
        tables.main()


def test_the_commit_is_that_of_the_code_that_was_loaded(monkeypatch):
    before = provenance.describe(torch.device("cpu"))["commit"]
    monkeypatch.setattr(provenance, "code_version", lambda folder: "another")
    assert provenance.describe(torch.device("cpu"))["commit"] == before == code_version(ROOT)
