"""Variants and exclusions in the pipeline itself: what DVC trains, what it leaves alone, what comes back."""

import json

import pytest

from kdcore.matrix import left_out

pytestmark = pytest.mark.pipeline

PAIR = "resnet14-resnet8"
T2 = {"kd": {"temperature": 2}}
VARIANT = {f"train@{PAIR}-kd-{scale}-False-t2-0" for scale in (1, 2)}
LEFT_OUT = {f"train@{PAIR}-dkd-{scale}-False-t2-0" for scale in (1, 2)} | {f"baseline@{PAIR}-vanilla-t2-0"}
RESULTS = {"evaluate@resnet14-resnet8", "tables"}
DKD = {f"train@{PAIR}-dkd-{scale}-False-base-0" for scale in (1, 2)}


def output(project, step):
    return project.folder / f"runs/{PAIR}/{step.partition('@')[2]}"


@pytest.mark.slow
def test_a_variant_trains_its_own_cells_alone(project):
    """One more by -S; then a change of its value: each trains exactly the cells whose recipe it changes."""
    ran = project.ran(project.dvc("exp", "run", "-S", "+variants.t2.kd.temperature=2"))
    assert ran == {"plan", *VARIANT, *LEFT_OUT, *RESULTS}
    assert {name for name in LEFT_OUT if output(project, name).read_text() == left_out.MARKER} == LEFT_OUT
    assert all((output(project, name) / "weights.safetensors").is_file() for name in VARIANT)
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    project.set(variants={"base": {}, "t2": {"kd": {"temperature": 3}}})
    assert project.stale() - RESULTS == VARIANT
    table = (project.folder / "tables/cells.csv").read_text()
    assert all(name.partition("@")[2] in table for name in VARIANT)
    assert not any(name.partition("@")[2] in table for name in LEFT_OUT)


def test_excluded_cells_come_back_when_the_exclusion_is_lifted(project):
    """From DVC's cache, without training; sweeps and `dvc repro` leave the same record."""
    weights = {name: project.digest(output(project, name) / "weights.safetensors") for name in DKD}
    project.set(exclude=[{"methods": ["dkd"]}])
    assert project.stale() == {*DKD, *RESULTS}
    swept = project.ran(project.sweep("--jobs", "2"))
    assert swept == RESULTS  # markers are written by the sweep itself
    assert {name for name in DKD if output(project, name).read_text() == left_out.MARKER} == DKD
    assert project.ran(project.dvc("repro")) == set()
    shown = json.loads((project.folder / "tables/metrics.json").read_text())
    assert shown[PAIR]["dkd"]["plain"] is None
    project.set(exclude=[])
    assert project.ran(project.sweep("--jobs", "2")) <= {"plan", *RESULTS}
    assert weights == {name: project.digest(output(project, name) / "weights.safetensors") for name in DKD}
    assert project.ran(project.dvc("repro")) == set()


@pytest.mark.slow
def test_excluding_in_a_serial_run(project):
    project.set(exclude=[{"methods": ["dkd"], "scales": [2]}])
    (excluded,) = {name for name in DKD if "-2-" in name}
    assert project.ran(project.dvc("repro")) == {"plan", excluded, *RESULTS}
    assert output(project, excluded).read_text() == left_out.MARKER
    project.set(exclude=[])
    assert project.ran(project.dvc("repro")) <= {"plan", *RESULTS}
    assert (output(project, excluded) / "weights.safetensors").is_file()


def test_a_dry_run_counts_no_cell_that_is_left_out(project):
    project.set(variants={"base": {}, "t2": T2}, exclude=[{"methods": ["dkd"]}])
    said = project.sweep("--dry-run")
    assert "cells: 2 to run, 0 cached, 0 blocked, 3 up to date" in said
    assert "dkd" not in said
