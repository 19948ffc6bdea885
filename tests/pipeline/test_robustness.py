"""Robustness in the pipeline itself: what DVC and sweeps run when a matrix names corrupted images, and later not."""

import json

import pytest

from kdcore.sweep.steps import is_here

PAIR = "resnet14-resnet8"
STEP = f"robustness@{PAIR}-corruptions"
FILES = ("robustness-corruptions.csv", "robustness-corruptions.md")
FEWER = '\nCORRUPTIONS = {name: CORRUPTIONS[name] for name in ("brightness", "jpeg")}\n'


@pytest.fixture
def project(project):
    """A project that knows two corruptions, for all sixteen take minutes."""
    with (project.folder / "kdcore/data/corruptions.py").open("a") as module:
        module.write(FEWER)
    return project


def test_what_reads_files_outside_dvc_runs_in_the_sweeps_folder():
    assert is_here(f"robustness@{PAIR}-cifar100_c")
    assert not is_here(STEP)


@pytest.mark.pipeline
@pytest.mark.slow
def test_added_later_it_alone_runs_and_taken_away_nothing_does(project):
    """No student is trained and none evaluated; a second run does nothing; sweeps know the stage."""
    before = {path: project.digest(path) for path in ("tables/digits.md", "tables/digits.tex", "tables/metrics.json")}
    project.set(robustness=["corruptions"])
    said = project.sweep("--dry-run")
    assert "cells: 0 to run, 0 cached, 0 blocked, 5 up to date" in said
    assert STEP in said
    assert project.ran(project.dvc("repro")) == {"plan", STEP, "tables"}
    assert project.ran(project.dvc("repro")) == set()
    assert project.ran(project.sweep("--jobs", "1")) == set()
    measured = json.loads((project.folder / f"evaluations/robustness/corruptions/{PAIR}/errors.json").read_text())
    evaluated = json.loads((project.folder / f"evaluations/{PAIR}/metrics.json").read_text())
    clean = {one["name"]: round(100 - one["clean"], 4) for one in measured["cells"]}
    assert clean == pytest.approx({one["name"]: one["top1"] for one in evaluated["cells"]}, abs=2e-4)
    assert 100 - measured["teacher"]["clean"] == pytest.approx(evaluated["teacher"]["top1"], abs=2e-4)
    digests = [project.digest(f"tables/{name}") for name in FILES]
    assert 'id="robustness"' in (project.folder / "tables/report.html").read_text()

    project.set(robustness=[])
    assert project.ran(project.sweep("--jobs", "1")) <= {"plan", "tables"}
    assert not any((project.folder / "tables" / name).exists() for name in FILES)
    assert before == {path: project.digest(path) for path in before}

    project.run("rm", "-rf", "evaluations/robustness")
    project.set(robustness=["corruptions"])
    assert project.ran(project.sweep("--jobs", "1")) <= {"plan", "tables"}, "it comes back from DVC's cache"
    assert digests == [project.digest(f"tables/{name}") for name in FILES]


@pytest.mark.pipeline
@pytest.mark.slow
def test_a_sweep_measures_as_dvc_does_and_the_plan_refuses_with_exit_code_2(project):
    project.set(robustness=["cifar100_c"])
    said = project.run("python", "-m", "stages.plan", "--check", "params.yaml", code=2)
    assert "cifar100_c holds corrupted test images of cifar100, and data.name is digits" in said
    project.set(robustness=["corruptions"])
    assert project.ran(project.sweep("--jobs", "1")) == {"plan", STEP, "tables"}
    assert project.ran(project.dvc("repro")) == set()
    project.edit(f"cards/robustness/{PAIR}-corruptions.yaml", "robustness: ", "robustness: f")
    said = project.run("python", "-m", "stages.robustness", f"{PAIR}-corruptions", code=2)
    assert "the code has changed since the plan (robustness)" in said
    assert "holds no card of 'x'" in project.run("python", "-m", "stages.robustness", "x", code=2)
