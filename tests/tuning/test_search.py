"""Searches in a project: what they leave, that test images have no part in them, and that they go on after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdcore.matrix import left_out
from kdcore.system import yamlfile
from kdcore.system.files import file_sha256
from kdcore.system.workspace import MANIFEST
from tests.project import SHORT, Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PAIR = "resnet14-resnet8"
RECORD = "tuning/kd.json"
TUNE = {
    "pairs": [PAIR], "method": "kd", "space": {"kd.temperature": [1, 8], "train.lr": "log [0.005, 0.1]"}, "trials": 4,
    "validation": 0.5, "pruner": "median",
}  # fmt: skip
LIMIT = 5.0
"""Seconds until a message."""


def tune(project, *arguments, code=0):
    return project.run("python", "-m", "stages.tune", *(arguments or ("-j", "1")), code=code)


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """A project with more images, after a search; to be read."""
    project = Project(tmp_path_factory.mktemp("searched") / "project")
    shutil.copytree(finished.folder, project.folder, symlinks=True)
    data = yamlfile.read(project.folder / "params.yaml")["data"]
    project.set(data={**data, "train_per_class": 20}, train={**SHORT, "epochs": 3}, tune=TUNE)
    project.sweep("--jobs", "1", "pairs")
    project.commit()
    project.said = tune(project)
    return project


@pytest.fixture
def other(searched, tmp_path):
    """A copy of it in which there was no search yet."""
    project = Project(tmp_path / "other")
    shutil.copytree(searched.folder, project.folder, symlinks=True)
    project.run("git", "checkout", "-q", "--", "params.yaml")
    shutil.rmtree(project.folder / "scratch/tune")
    (project.folder / RECORD).unlink()
    return project


def leaves(project):
    """The record, and all that trials have reported."""
    found = {RECORD: json.loads((project.folder / RECORD).read_text())}
    for path in sorted((project.folder / "scratch/tune/kd").glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    log = (project.folder / "scratch/tune/kd/study.log").read_text().splitlines()
    reported = [line for line in map(json.loads, log) if "intermediate_value" in line]
    found["epochs"] = [(line["trial_id"], line["step"], line["intermediate_value"]) for line in reported]
    return found


def test_a_search_leaves_a_record_and_a_variant(searched):
    record = json.loads((searched.folder / RECORD).read_text())
    assert record["protocol"]["trials"] == {"done": 4, "pruned": 0, "failed": 0}
    assert [trial["number"] for trial in record["trials"]] == [0, 1, 2, 3]
    best = max(record["trials"], key=lambda trial: trial["score"])
    assert record["best"] == {"trial": best["number"], "score": best["score"], "values": best["values"]}
    variant = yamlfile.read(searched.folder / "params.yaml")["variants"]["tuned_kd"]
    assert variant == {
        "kd": {"temperature": best["values"]["kd.temperature"]},
        "train": {"lr": best["values"]["train.lr"]},
        "only": {"pairs": ["resnet14-resnet8"], "methods": ["kd"], "scales": [1], "stand": [False]},
        "tuned": "kd",
    }
    assert "4 trials" in searched.said
    left = [path.name for path in (searched.folder / "scratch/tune/kd/0").iterdir()]
    assert sorted(left) == [f"{PAIR}-kd-1-False-tune_kd_0-0.yaml", "result.json", "trial.yaml"]
    assert not [*(searched.folder / "scratch/states").glob("*tune_kd*")]
    assert not [*(searched.folder / "scratch/live").glob("*tune_kd*")]
    assert len(leaves(searched)["epochs"]) == 12


def replace_test_images(project, change):
    """Give the stored data set other test images."""
    folder = project.folder / "data/digits"
    manifest = json.loads((folder / MANIFEST).read_text())
    changed = []
    for name in manifest["sha256"]:
        if name.startswith("test") and (new := change(name, np.load(folder / name))) is not None:
            (folder / name).unlink()
            np.save(folder / name, new)
            manifest["sha256"][name] = file_sha256(folder / name)
            changed.append(name)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return changed


def shuffled_labels(name, array):
    return np.random.default_rng(0).permutation(array) if "label" in name else None


def other_images(name, array):
    return None if "label" in name else np.random.default_rng(0).integers(0, 255, array.shape).astype(array.dtype)


@pytest.mark.parametrize("change", [shuffled_labels, other_images])
def test_test_images_have_no_part_in_a_search(searched, other, change):
    assert replace_test_images(other, change)
    tune(other)
    assert leaves(other) == leaves(searched)


def test_training_labels_do(searched, other):
    """The proof above could fail."""
    folder = other.folder / "data/digits"
    manifest = json.loads((folder / MANIFEST).read_text())
    (name,) = [name for name in manifest["sha256"] if name.startswith("train") and "label" in name]
    new = np.random.default_rng(0).permutation(np.load(folder / name))
    (folder / name).unlink()
    np.save(folder / name, new)
    manifest["sha256"][name] = file_sha256(folder / name)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    tune(other)
    assert leaves(other)["epochs"] != leaves(searched)["epochs"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(searched, other, how):
    process = subprocess.Popen([sys.executable, "-m", "stages.tune", "-j", "1"], cwd=other.folder)
    begun = other.folder / "scratch/tune/kd/1/trial.yaml"
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(how)
    assert process.wait(60) in (-signal.SIGKILL, 128 + signal.SIGINT)
    assert not (other.folder / RECORD).exists()
    tune(other)
    assert leaves(other)[RECORD] == leaves(searched)[RECORD]


def test_more_trials_go_on_and_another_search_is_refused(searched, other):
    shutil.copytree(searched.folder / "scratch/tune", other.folder / "scratch/tune")
    other.set(tune={**TUNE, "trials": 5})
    said = tune(other)
    assert "trial 4: " in said
    assert "trial 3: " not in said.split("tuning/kd.json")[0]
    assert len(json.loads((other.folder / RECORD).read_text())["trials"]) == 5
    again = (other.folder / "params.yaml").read_bytes(), (other.folder / RECORD).read_bytes()
    assert "trial 4: " not in tune(other).split("tuning/kd.json")[0]
    assert again == ((other.folder / "params.yaml").read_bytes(), (other.folder / RECORD).read_bytes())
    other.set(tune={**TUNE, "validation": 0.25})
    said = tune(other, code=2)
    assert "- validation: 0.5, 0.25" in said
    assert "set another tune.name" in said
    other.edit("kdcore/methods/kd.py", "temperature**2", "temperature * temperature")
    other.set(tune=TUNE)
    assert "code.method.kd" in tune(other, code=2)


def test_trials_that_are_stopped_early_or_diverge_count_and_leave_nothing_half_written(other):
    other.edit("kdcore/tuning/trial.py", "self.trial.should_prune()", "self.trial._trial_id == 1 and step == 2")
    other.set(tune={**TUNE, "space": {"train.lr": "one of [0.02, 0.03, 1.0e+12]"}, "trials": 8})
    said = tune(other)
    record = json.loads((other.folder / RECORD).read_text())
    states = [trial["state"] for trial in record["trials"]]
    assert record["protocol"]["trials"] == {"done": 8, "pruned": 1, "failed": states.count("failed")}
    assert states[1] == "pruned"
    assert record["trials"][1]["score"] == round(leaves(other)["1"]["score"], 4)
    assert [step for trial, step, _ in leaves(other)["epochs"] if trial == 1] == [1, 2]
    diverged = [trial for trial in record["trials"] if trial["state"] == "failed"]
    assert {trial["values"]["train.lr"] for trial in diverged} == {1e12}
    assert all(trial["score"] is None for trial in diverged)
    assert "diverged (" in said
    assert "stopped early at " in said
    assert not [path for path in (other.folder / "scratch/tune").rglob("*tune_kd*") if path.is_dir()]
    assert not [*(other.folder / "scratch/live").glob("*tune_kd*")]
    assert not [*(other.folder / "scratch/states").glob("*tune_kd*")]


def test_what_is_edited_while_a_search_runs_is_for_the_next_one(searched, other):
    process = subprocess.Popen([sys.executable, "-m", "stages.tune", "-j", "1"], cwd=other.folder)
    deadline = time.monotonic() + 60
    while not (other.folder / "scratch/tune/kd/0/trial.yaml").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    other.set(train={**yamlfile.read(other.folder / "params.yaml")["train"], "weight_decay": 0.1})
    assert process.wait(60) == 0
    assert leaves(other)[RECORD] == leaves(searched)[RECORD]


def test_the_variant_is_trained_and_noted(searched, tmp_path):
    project = Project(tmp_path / "project")
    shutil.copytree(searched.folder, project.folder, symlinks=True)
    project.sweep("--jobs", "1")  # trains the variant too; what follows is about its cells alone
    card = yamlfile.read(project.folder / f"cards/train/{PAIR}-kd-1-False-tuned_kd-0.yaml")
    best = json.loads((project.folder / RECORD).read_text())["best"]["values"]
    assert (card["recipe"]["temperature"], card["train"]["lr"]) == (best["kd.temperature"], best["train.lr"])
    assert not {"validation", "test", "tuned"} & card.keys()
    trained = [path.name for path in (project.folder / f"runs/{PAIR}").glob("*tuned_kd*") if path.is_dir()]
    assert trained == [f"{PAIR}-kd-1-False-tuned_kd-0"]
    others = [path for path in (project.folder / f"runs/{PAIR}").glob("*tuned_kd*") if path.is_file()]
    assert {path.read_text() for path in others} == {left_out.MARKER}
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    note = f"chosen by 4 trials on 50% of the training images of {PAIR} (validation accuracy "
    assert note in (project.folder / "tables/digits.md").read_text()
    assert 'id="tuning"' in (project.folder / "tables/report.html").read_text()
    (project.folder / RECORD).unlink()
    assert "there is no tuning/kd.json" in project.run("python", "-m", "stages.plan", code=2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda project: project.set(tune=None), ["has no section tune", "pairs: [resnet20-resnet8]"]),
        (lambda project: project.set(tune={**TUNE, "space": {"kd.t": [1, 2]}}), ["tune.space.kd.t", "temperature"]),
        (lambda project: project.set(tune={**TUNE, "validation": 0.99}), ["tune.validation: 0.99", "class '0'"]),
        (lambda project: (project.folder / f"pairs/{PAIR}.safetensors").unlink(), ["dvc repro pairs"]),
        (lambda project: shutil.rmtree(project.folder / "data/digits"), ["data/digits", "dvc repro pairs"]),
        (
            lambda project: project.set(teachers={"resnet14": {"source": "train", "train": {**SHORT, "lr": 0.5}}}),
            ["pairs/resnet14-resnet8.safetensors", "dvc repro pairs"],
        ),
    ],
)
def test_what_is_refused_at_once(other, spoil, words):
    spoil(other)
    before = Path(other.folder / "params.yaml").read_bytes()
    began = time.monotonic()
    said = tune(other, code=2)
    assert time.monotonic() - began < LIMIT
    assert all(word in said for word in words), said
    assert not (other.folder / "scratch/tune").exists()
    assert Path(other.folder / "params.yaml").read_bytes() == before
