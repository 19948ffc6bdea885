"""Stage scripts from the command line, and one card carried out."""

import os
import subprocess
import sys

import pytest

from kdcore import experiment, runs, yamlfile
from kdcore.data import digits, store
from kdcore.errors import RunError, UserError
from kdcore.folders import whole
from tests.conftest import ROOT

CARD = {
    "name": "resnet8-resnet8-vanilla-0",
    "pair": "resnet8-resnet8",
    "student": "resnet8",
    "method": "vanilla",
    "seed": 0,
    "data": "digits",
    "recipe": {"ce_weight": 1.0},
    "train": {"epochs": 2, "batch_size": 8, "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0,
              "schedule": "cosine", "precision": "float32"},
    "code": {},
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
        store.save(digits.fetch(source="embedded", image_size=16, train_per_class=1), folder)
    yamlfile.write(tmp_path / "cards/baseline/cell.yaml", CARD)
    return tmp_path


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py")))
def test_scripts_are_thin(script):
    assert len((ROOT / f"stages/{script}.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("stage", ["data", "pairs", "tables", "teacher resnet8", "evaluate a-b", "train baseline x"])
def test_missing_card(tmp_path, stage):
    name, *arguments = stage.split()
    code, said = call(tmp_path, f"stages.{name}", *arguments)
    assert code == 2
    assert said.startswith("error: cards/")
    assert "cannot be read" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stage", ["plan --chek x", "plan --check", "plan x", "train", "train baseline", "teacher", "data x", "evaluate"]
)
def test_wrong_arguments(tmp_path, stage):
    name, *arguments = stage.split()
    code, said = call(tmp_path, f"stages.{name}", *arguments)
    assert (code, said.split(" ")[:2]) == (2, ["error:", "usage:"])


def test_no_such_device(project):
    code, said = call(project, "stages.train", "baseline", "cell", KDCORE_DEVICE="cuda:99")
    assert (code, "KDCORE_DEVICE=cuda:99: no such device here" in said) == (2, True)
    assert not (project / "runs").exists()


def test_card_is_carried_out(project):
    experiment.run(project / "cards/baseline/cell.yaml", project / "out")
    meta = runs.read_meta(project / "out")
    assert {key: meta[key] for key in CARD} == CARD
    assert {"commit", "versions", "device", "threads", "seconds", "images_per_second"} <= set(meta)
    assert len((project / "out/history.csv").read_text().splitlines()) == 3


def test_loss_that_is_not_finite_names_the_cell(project):
    card = {**CARD, "train": {**CARD["train"], "lr": 1e30}}
    yamlfile.write(project / "cards/baseline/cell.yaml", card)
    with pytest.raises(RunError, match="resnet8-resnet8-vanilla-0: epoch 1, step 2 of 2"):
        experiment.run(project / "cards/baseline/cell.yaml", project / "out")
    assert not (project / "out").exists()
    code, said = call(project, "stages.train", "baseline", "cell")
    assert (code, said.count("\n")) == (1, 1)


def test_teacher_of_other_classes(project):
    from kdcore import checkpoints, networks

    checkpoints.save(networks.create("resnet8", 100), project / "teacher.safetensors")
    yamlfile.write(project / "cards/train/cell.yaml", {**CARD, "method": "kd", "teacher": "resnet8"})
    with pytest.raises(UserError, match=r"fc\.weight: \(100, 64\) in the file, \(10, 64\) in the network"):
        experiment.run(
            project / "cards/train/cell.yaml", project / "out", teacher_weights=project / "teacher.safetensors"
        )


def test_folder_is_whole_or_absent(tmp_path):
    with whole(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), whole(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "out/a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
