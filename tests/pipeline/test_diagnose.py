"""Stage diagnose on a tiny matrix: added to a finished one, and with cells of several kinds."""

import json
import shutil

import pytest

from tests.project import Project

pytestmark = pytest.mark.pipeline

PAIR = "resnet14-resnet8"
STAGE = f"diagnose@{PAIR}"
FOUND = f"evaluations/diagnostics/{PAIR}/diagnostics.json"


@pytest.fixture(scope="module")
def added(finished, tmp_path_factory):
    """A copy of the finished matrix, to which diagnostics were added; with what `dvc repro` said."""
    project = Project(tmp_path_factory.mktemp("added") / "project")
    shutil.copytree(finished.folder, project.folder, symlinks=True)
    before = {name: project.digest(name) for name in (f"evaluations/{PAIR}/metrics.json", "tables/digits.md")}
    project.set(diagnostics=[PAIR])
    return project, project.dvc("repro"), before


@pytest.fixture
def diagnosed(added, tmp_path):
    """A copy of it to change."""
    shutil.copytree(added[0].folder, tmp_path / "diagnosed", symlinks=True)
    return Project(tmp_path / "diagnosed")


def test_adding_diagnostics_trains_and_evaluates_nothing(added):
    project, output, before = added
    assert project.ran(output) == {"plan", STAGE, "tables"}
    assert before == {name: project.digest(name) for name in before}


def test_what_is_there_then(added):
    project, _, _ = added
    found = json.loads((project.folder / FOUND).read_text())
    assert len(found["cells"]) == 5
    assert {len(cell.get("regions", {})) for cell in found["cells"]} == {0, 2}
    assert "Diagnostics" in (project.folder / "tables/report.html").read_text()
    assert (project.folder / "tables/diagnostics.csv").is_file()
    assert (project.folder / f"tables/figures/features-{PAIR}.png").is_file()
    assert (project.folder / "tables/figures/accuracy-over-time.pdf").is_file()


def test_a_second_run_does_nothing(added):
    project, _, _ = added
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert project.ran(project.dvc("repro")) == set()


@pytest.mark.slow
def test_taking_them_away_leaves_the_tables_as_they_were(diagnosed, finished):
    diagnosed.set(diagnostics=[])
    assert diagnosed.ran(diagnosed.dvc("repro")) == {"plan", "tables"}
    for name in ("digits.md", "cells.csv", "report.html"):
        assert diagnosed.digest(f"tables/{name}") == finished.digest(f"tables/{name}")
    assert not (diagnosed.folder / "tables/diagnostics.csv").exists()


@pytest.mark.slow
def test_a_sweep_gives_the_same_bits(diagnosed):
    before = diagnosed.digest(FOUND)
    shutil.rmtree(diagnosed.folder / ".dvc/cache/runs")
    diagnosed.edit("kdcore/results/diagnostics/pair.py", "DIGITS = 4", "DIGITS = 3 + 1")
    assert diagnosed.ran(diagnosed.sweep("--jobs", "1")) == {"plan", STAGE, "tables"}
    assert diagnosed.digest(FOUND) == before


@pytest.mark.slow
def test_another_cell_is_diagnosed_too(diagnosed):
    diagnosed.set(baselines=["vanilla", "simkd"])
    new = f"{PAIR}-simkd-base-0"
    ran = diagnosed.ran(diagnosed.sweep("--jobs", "1"))
    assert ran == {"plan", f"baseline@{new}", f"evaluate@{PAIR}", STAGE, "tables"}
    folder = diagnosed.folder / f"evaluations/diagnostics/{PAIR}"
    cells = {cell["name"]: cell for cell in json.loads((folder / "diagnostics.json").read_text())["cells"]}
    assert len(cells) == 6
    assert cells[new]["cka"]
    speeds = json.loads((folder / "cost.json").read_text())["images_per_second"]
    assert set(speeds) == {"teacher", "student", new}


@pytest.mark.parametrize(("name", "message"), [
    ("other-pair", "cards/diagnose/: holds no card of 'other-pair'."),
    ("../tables", "cards/diagnose/: holds no card of '../tables'."),
])  # fmt: skip
def test_what_is_no_pair(added, name, message):
    project, _, _ = added
    assert message in project.run("python", "-m", "stages.diagnose", name, code=2)


def test_a_pair_that_is_none_is_refused_before_any_work(diagnosed):
    diagnosed.set(diagnostics=["resnet14-resnet20"])
    assert "diagnostics: 'resnet14-resnet20' is no pair of this matrix." in diagnosed.dvc("repro", code=255)
    said = diagnosed.run("python", "-m", "stages.plan", "--check", "params.yaml", code=2)
    assert "Name some of pairs (resnet14-resnet8), or none: diagnostics: []" in said
