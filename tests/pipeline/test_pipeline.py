"""The pipeline itself: DVC on a tiny matrix in a temporary clone."""

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from dvc_render.vega import VegaRenderer

from kdcore.data import storage
from kdcore.matrix import params
from kdcore.system import yamlfile
from tests.pictures import write_tree
from tests.project import ROOT, SHORT, TRAINED, Project
from tests.sweeps import SweepProject, stop

pytestmark = pytest.mark.pipeline

KD, DKD = ({f"train@resnet14-resnet8-{method}-{scale}-False-base-0" for scale in (1, 2)} for method in ("kd", "dkd"))
CELLS = KD | DKD | {"baseline@resnet14-resnet8-vanilla-base-0"}
RESULTS = {"evaluate@resnet14-resnet8", "tables"}
FILES = ("weights.safetensors", "history.csv")
TIMINGS = "scratch/timings.jsonl"


def kept(project):
    """The files below scratch/."""
    files = [path for path in (project.folder / "scratch").rglob("*") if path.is_file()]
    return [path.relative_to(project.folder).as_posix() for path in files]


def test_stages_are_the_declared_cells(project):
    listed = set(project.dvc("stage", "list", "--name-only").split())
    declared = {f"{cell.stage}@{cell.name}" for cell in params.load(project.folder / "params.yaml").cells()}
    assert declared == CELLS
    assert {name for name in listed if name.startswith(("train@", "baseline@"))} == CELLS
    assert listed - CELLS == RESULTS | {"plan", "data", "teacher@resnet14", "pairs"}


def test_shipped_matrix_expands_as_declared(project):
    shutil.copy(ROOT / "params.yaml", project.folder / "params.yaml")
    listed = project.dvc("stage", "list", "--name-only").split()
    declared = [f"{cell.stage}@{cell.name}" for cell in params.load(ROOT / "params.yaml").cells()]
    assert sorted(name for name in listed if name.startswith(("train@", "baseline@"))) == sorted(declared)


@pytest.mark.slow
def test_sums_adapters_views_and_dot(project):
    """What a method trains beside the student is kept apart from it; DOT retrains what distils."""
    project.set(methods=["crd+kd", "mlkd"], scales=[1], baselines=["vanilla", "cc", "at+sp"])
    output = project.sweep("--jobs", "2")
    new = {f"train@resnet14-resnet8-{method}-1-False-base-0" for method in ("crd+kd", "mlkd")}
    new |= {f"baseline@resnet14-resnet8-{method}-base-0" for method in ("cc", "at+sp")}
    assert project.ran(output) == {"plan", *new, *RESULTS}
    runs = project.folder / "runs/resnet14-resnet8"
    adapted = {path.parent.name for path in runs.glob("*/adapters.safetensors")}
    assert adapted == {"resnet14-resnet8-crd+kd-1-False-base-0", "resnet14-resnet8-cc-base-0"}
    sizes = {path.parent.name: path.stat().st_size for path in runs.glob("*/weights.safetensors")}
    assert len(set(sizes.values())) == 1
    history = (runs / "resnet14-resnet8-crd+kd-1-False-base-0/history.csv").read_text()
    assert history.startswith("epoch,lr,loss,ce,crd,kd,train_top1,test_top1\n")
    table = (project.folder / "tables/digits.md").read_text()
    assert all(f"| {label} " in table for label in ("CRD+KD", "MLKD", "CC", "AT+SP"))
    train = yamlfile.read(project.folder / "params.yaml")["train"]
    project.set(train={**train, "optimizer": "dot", "dot_delta": 0.075})
    assert {name for name in project.stale() if name.startswith(("train@", "baseline@", "teacher@"))} == new


@pytest.mark.slow
def test_validation_trains_all_anew_and_fetches_nothing(project):
    data = yamlfile.read(project.folder / "params.yaml")["data"]
    project.set(data={**data, "validation": 0.5}, tables={"accuracy": "top1_best"})
    assert project.ran(project.sweep("--jobs", "2")) == {"plan", "teacher@resnet14", "pairs", *CELLS, *RESULTS}
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    table = (project.folder / "tables/digits.md").read_text()
    assert "of the best epoch, chosen on the validation images (50% of the training images)" in table
    assert "6 epochs of 10 training images; the validation images" in table
    pair = project.folder / "evaluations/resnet14-resnet8"
    curves = pd.read_csv(pair / "curves.csv")
    for cell in json.loads((pair / "metrics.json").read_text())["cells"]:
        own = curves[curves["cell"] == cell["name"]]
        best = own[own["val_top1"] == own["val_top1"].max()].iloc[0]
        assert cell["top1_best"] == pytest.approx(best["test_top1"], abs=1e-4)
        assert cell["val_top1"] == pytest.approx(own["val_top1"].iloc[-1], abs=1e-4)
    assert "Validation accuracy (%)" in (project.folder / "tables/report.html").read_text()


def test_images_of_ones_own_are_read_again_and_never_brought_back(project):
    """A folder may have changed since it was read with these settings: DVC's run cache knows the settings alone."""

    def stored(side):
        project.set(data={"name": "mine", "source": "folder:mine", "image_size": side, "test_share": 0.5})
        project.dvc("repro", "data")
        return storage.read_manifest(project.folder / "data/mine").counts.train

    write_tree(project.folder / "mine", ["cat", "dog"], 4)
    assert stored(16) == 4
    write_tree(project.folder / "mine", ["cat", "dog"], 4, start=4)
    assert (stored(32), stored(16)) == (8, 8)


def test_second_run_does_nothing(project):
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert project.ran(project.dvc("repro")) == set()


def test_outputs(project):
    run = project.folder / "runs/resnet14-resnet8/resnet14-resnet8-kd-2-False-base-0"
    assert sorted(path.name for path in run.iterdir()) == ["history.csv", "meta.json", "weights.safetensors"]
    meta = json.loads((run / "meta.json").read_text())
    assert meta["recipe"]["temperature"] == 4.0
    assert {"commit", "versions", "device", "code", "train"} <= set(meta)
    assert sorted(path.name for path in (project.folder / "tables").iterdir()) == [
        "cells.csv", "curves.csv", "digits.csv", "digits.md", "digits.tex", "figures", "metrics.json", "preview.tex",
        "reliability.csv", "report.html", "top1.csv",
    ]  # fmt: skip
    assert kept(project) == [TIMINGS]
    assert project.run("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_all_done_again_has_the_same_bits(project, monkeypatch):
    """A sweep ran the matrix; a serial run at the same commit leaves the same dvc.lock, with any number of threads that
    torch would take by itself.
    """
    before = project.digest("dvc.lock")
    project.run("git", "reset", "--soft", "HEAD~1")  # to the commit that the matrix was run at
    monkeypatch.setenv("OMP_NUM_THREADS", "1" if os.environ.get("OMP_NUM_THREADS") == "2" else "2")
    (project.folder / "dvc.lock").unlink()
    shutil.rmtree(project.folder / ".dvc/cache/runs")
    project.dvc("repro")
    assert project.digest("dvc.lock") == before
    trained = (project.folder / TIMINGS).read_text().splitlines()
    assert len(trained) == 2 * (len(CELLS) + 1)


def test_metrics_and_plots_are_shown(project):
    assert "resnet14-resnet8.kd.headline" in project.dvc("metrics", "show")
    project.dvc("plots", "show", "-o", "plots")
    page = (project.folder / "plots/index.html").read_text()
    assert "KD + SDD [1,2]" in page


def test_plots_without_a_network(project):
    """With the project's template the page loads Vega from .dvc/vega, where docs/day-by-day.md puts DVC's versions."""
    told = (project.folder / "docs/day-by-day.md").read_text()
    wanted = re.findall(r'src="https://[^"]*/([\w-]+)@([\d.]+)"', VegaRenderer.SCRIPTS)
    assert re.search(r"for name in (.*); do", told)[1].split() == [f"{name}@{version}" for name, version in wanted]
    (command,) = re.findall(r"^dvc config .*$", told, re.MULTILINE)
    project.run(*command.split())
    project.dvc("plots", "show")
    page = (project.folder / "dvc_plots/index.html").read_text()
    assert "KD + SDD [1,2]" in page
    assert not re.search("{scripts}|{plot_divs}|{refresh_tag}|src=.https?:", page)
    scripts = re.findall(r'<script [^>]*src="([^"]*)"', page)
    places = [os.path.normpath(project.folder / "dvc_plots" / script) for script in scripts]
    assert places == [str(project.folder / f".dvc/vega/{name}.js") for name, _ in wanted]
    (project.folder / ".dvc/vega").mkdir()
    (project.folder / ".dvc/vega/vega.js").touch()
    assert ".dvc/vega" not in project.run("git", "status", "--porcelain", "--untracked-files=all")


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "new"), [
    ({"seeds": [0, 1]}, {name.removesuffix("0") + "1" for name in CELLS}),
    ({"scales": [1, 2, 4]}, {f"train@resnet14-resnet8-{method}-4-False-base-0" for method in ("kd", "dkd")}),
    ({"methods": ["kd", "dkd", "rld"]}, {f"train@resnet14-resnet8-rld-{scale}-False-base-0" for scale in (1, 2)}),
    ({"pairs": ["resnet14-resnet8", "resnet14-wrn_16_1"]},
     {name.replace("resnet8", "wrn_16_1") for name in CELLS | {"evaluate@resnet14-resnet8"}}),
])  # fmt: skip
def test_longer_axes_make_only_new_cells_stale(project, changes, new):
    project.set(**changes)
    assert project.stale() - RESULTS == new


def test_shorter_axes_make_no_cell_stale(project):
    project.set(methods=["kd"], scales=[2])
    assert project.stale() == RESULTS


def test_statement_of_a_method_makes_its_cells_stale(project):
    project.edit("kdcore/methods/dkd.py", "return alpha * tckd + beta * nckd", "return beta * nckd + alpha * tckd")
    assert project.stale() == DKD


def test_comments_and_docstrings_make_nothing_stale(project):
    project.edit("kdcore/methods/dkd.py", "    return alpha", "    # A comment.\n    return alpha")
    project.edit("kdcore/methods/dkd.py", "in nats, per sample.", "in nats, for every sample.")
    project.edit("kdcore/results/rows.py", '"""The results of a ', '"""In other words. The results of a ')
    project.edit("params.yaml", "seeds:", "# A comment.\nseeds:")
    assert project.stale() == set()


def test_tables_make_only_tables_stale(project):
    project.edit("kdcore/results/row.py", '{None: "Teacher",', '{None: "The teacher",')
    assert project.stale() == {"tables"}


def test_published_figures_make_only_tables_stale(project):
    """They are checked with the plan, whose cards stay as they are."""
    project.edit("data/published.yaml", "top1: 64.6,", "top1: 64.7,")
    assert project.stale() == {"tables"}


def test_temperature_of_kd_makes_its_cells_stale(project):
    project.set(methods_config={"kd": {"temperature": 3}})
    assert project.stale() - {"tables"} == KD


@pytest.mark.slow
def test_own_copy_of_a_published_teacher(project):
    """DVC sees it come and go; a teacher with the same weights makes no cell stale."""
    listed = yamlfile.read(project.folder / "data/teachers.yaml")
    listed["teachers"]["digits"] = {"resnet14": {"published_top1": 10.0, "sources": []}}
    yamlfile.write(project.folder / "data/teachers.yaml", listed)
    copy = project.folder / "checkpoints/digits/resnet14.safetensors"
    copy.parent.mkdir()
    shutil.copy(project.folder / "teachers/resnet14/weights.safetensors", copy)
    project.set(teachers={"resnet14": {"source": "published"}})
    assert project.ran(project.sweep("--jobs", "2")) == {"plan", "teacher@resnet14", "pairs", "tables"}
    assert "Teachers: resnet14 (published checkpoint)." in (project.folder / "tables/digits.md").read_text()
    assert project.ran(project.dvc("repro")) == set()
    copy.unlink()
    assert "no download is listed" in project.dvc("repro", code=255)
    project.set(teachers={"resnet14": {"source": "published", "otherwise": "train", "train": SHORT}})
    assert project.ran(project.sweep("--jobs", "2")) == {"plan", "teacher@resnet14", "pairs", "tables"}
    assert "resnet14 (trained here, 6 epochs, for no" in (project.folder / "tables/digits.md").read_text()


@pytest.mark.slow
def test_two_teachers_of_one_network(project):
    """The second has a name and weights of its own; its pair's cells alone are trained, and evaluated with it."""
    other = {"network": "resnet14", "source": "train", "train": {**SHORT, "lr": 0.01}}
    before = {path.name for path in (project.folder / "runs/resnet14-resnet8").iterdir()}
    pairs = ["resnet14-resnet8", "slow14-resnet8"]
    project.set(teachers={"resnet14": TRAINED, "slow14": other}, pairs=pairs, methods=["kd"], scales=[1])
    ran = project.ran(project.sweep("--jobs", "2"))
    cells = {"train@slow14-resnet8-kd-1-False-base-0", "baseline@slow14-resnet8-vanilla-base-0"}
    pairs_made = {"evaluate@resnet14-resnet8", "evaluate@slow14-resnet8"}
    assert ran == {"plan", "teacher@slow14", "pairs", "tables", *cells, *pairs_made}
    assert before == {path.name for path in (project.folder / "runs/resnet14-resnet8").iterdir()}
    weights = {project.digest(f"pairs/{pair}.safetensors") for pair in pairs}
    assert weights == {project.digest(f"teachers/{name}/weights.safetensors") for name in ("resnet14", "slow14")}
    assert len(weights) == 2
    plain, slow = (json.loads((project.folder / f"evaluations/{pair}/metrics.json").read_text()) for pair in pairs)
    assert plain["teacher"]["nll"] != slow["teacher"]["nll"]
    assert plain["teacher"]["parameters"] == slow["teacher"]["parameters"]
    assert "slow14-resnet8" in (project.folder / "tables/digits.md").read_text()
    assert project.ran(project.dvc("repro")) == set()


@pytest.mark.slow
def test_experiment_in_a_temporary_folder_has_the_teacher_of_the_workspace(project):
    """Git ignores the user's copy, so the folder lacks it; DVC must not bring cards back that were made without it."""
    listed = yamlfile.read(project.folder / "data/teachers.yaml")
    listed["teachers"]["digits"] = {"resnet14": {"published_top1": 10.0, "sources": []}}
    yamlfile.write(project.folder / "data/teachers.yaml", listed)
    project.set(teachers={"resnet14": {"source": "published", "otherwise": "train", "train": {**SHORT, "epochs": 1}}})
    project.commit()
    project.dvc("exp", "run", "-S", "methods=[kd]")  # no copy yet: it is trained here
    project.run("git", "checkout", "-q", ".")
    project.dvc("checkout")
    copy = project.folder / "checkpoints/digits/resnet14.safetensors"
    copy.parent.mkdir()
    shutil.copy(project.folder / "teachers/resnet14/weights.safetensors", copy)
    output = project.dvc("exp", "run", "--temp", "--name", "tried", "-S", "methods=[kd]")
    assert project.ran(output) == {"plan", "teacher@resnet14", "pairs", "tables", "evaluate@resnet14-resnet8"}
    project.dvc("exp", "apply", "tried")
    taught = json.loads((project.folder / "tables/metrics.json").read_text())["teachers"]["resnet14"]
    assert taught["origin"] == "checkpoints/digits/resnet14.safetensors"
    assert taught["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()[:12]
    again = project.ran(project.dvc("repro"))
    assert again <= {"plan", "evaluate@resnet14-resnet8"}  # its folder holds other cells too


@pytest.mark.slow
def test_experiment_with_another_scale(project):
    """dvc exp run trains the new cells alone; dvc metrics diff then shows headlines and new rows, nothing else."""
    output = project.dvc("exp", "run", "-S", "scales=[1,2,4]")
    new = {f"train@resnet14-resnet8-{method}-4-False-base-0" for method in ("kd", "dkd")}
    assert project.ran(output) == new | RESULTS | {"plan"}
    headlines = {"resnet14-resnet8.kd.headline", "resnet14-resnet8.dkd.headline"}
    rows = {f"resnet14-resnet8.{method}.rows.1_2_4" for method in ("kd", "dkd")}
    shown = json.loads(project.dvc("metrics", "diff", "--json").splitlines()[-1])["tables/metrics.json"]
    assert rows <= set(shown) <= headlines | rows
    values = json.loads(project.dvc("metrics", "diff", "--all", "--json").splitlines()[-1])["tables/metrics.json"]
    for key, change in values.items():
        if key in rows:
            assert change.get("old") is None
            continue
        assert isinstance(change["new"], str) or change["diff"] == pytest.approx(change["new"] - change["old"])
        assert key in headlines or change["new"] == change["old"]
    assert headlines <= set(values)
    assert project.dvc("status").strip() == "Data and pipelines are up to date."


def test_bad_params_stop_before_any_work(project):
    cards = project.digest("cards/tables.yaml")
    project.set(scales=[1, 3])
    output = project.run(sys.executable, "-m", "stages.plan", code=2)
    assert output == (
        "error: params.yaml: scales[1]: 3 is no scale. Allowed: 1 for M=[1], 2 for M=[1,2], 4 for M=[1,2,4], "
        "or a rising set of levels such as L2, L4, L1_4\n"
    )
    assert project.digest("cards/tables.yaml") == cards
    output = project.dvc("repro", code=255)
    assert "3 is no scale" in output
    assert project.ran(output) == {"plan"}


def test_what_a_failed_experiment_leaves_in_params_is_said(project):
    left = (
        "params.yaml still differs from the commit in train.lr; where -S changed it, 'git checkout params.yaml' takes"
    )
    assert left in project.dvc("exp", "run", "-S", "train.lr=-1", code=255)
    assert "train.lr: -1" in (said := project.dvc("repro", code=255))
    assert left not in said
    project.run("git", "checkout", "-q", "params.yaml")
    assert project.dvc("status").strip() == "Data and pipelines are up to date."


def test_killed_cell_goes_on_and_ends_with_the_same_bits(project):
    name = "resnet14-resnet8-kd-2-False-base-0"
    run = f"runs/resnet14-resnet8/{name}"
    expected = [project.digest(f"{run}/{file}") for file in FILES]
    shutil.rmtree(project.folder / run)
    process = subprocess.Popen([sys.executable, "-m", "stages.train", "train", name], cwd=project.folder)
    deadline = time.monotonic() + 120
    while not list((project.folder / "scratch/states").glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9, "the cell ended before it could be killed"
    assert not (project.folder / run).exists()
    output = project.run(sys.executable, "-m", "stages.train", "train", name)
    assert [project.digest(f"{run}/{file}") for file in FILES] == expected
    assert len(re.findall(rf"^{name}: resumes at epoch [2-6] of 6$", output, re.MULTILINE)) == 1
    assert kept(project) == [TIMINGS]
    latest = json.loads((project.folder / TIMINGS).read_text().splitlines()[-1])
    assert latest["name"] == name
    assert latest["epochs"] < 6


@pytest.mark.slow
def test_sweep_killed_and_continued_ends_with_the_bits_of_a_serial_run(finished, tmp_path):
    """A cell is killed in the middle, then the sweep; the next one goes on, and leaves the serial run's dvc.lock."""
    project = SweepProject(tmp_path / "project")
    skipped = shutil.ignore_patterns("cache", "tmp", "scratch", "runs", "teachers", "evaluations", "dvc.lock")
    shutil.copytree(finished.folder, project.folder, symlinks=True, ignore=skipped)
    project.run("git", "reset", "--soft", "HEAD~1")  # to the commit that the matrix was run at
    pulses = project.folder / "scratch/live"

    def kill_a_cell_after_an_epoch():
        for path in pulses.glob("resnet14-*.json"):
            with suppress(FileNotFoundError, ProcessLookupError):
                pulse = json.loads(path.read_text())
                if pulse["epoch"] >= 1:
                    os.kill(pulse["pid"], signal.SIGKILL)
                    return True
        return False

    with project.sweeping("--jobs", "2") as process:
        project.wait_for(kill_a_cell_after_an_epoch)
        project.wait_for(lambda: "lost; is tried again" in project.said())
        project.wait_for(lambda: any(pulses.glob("resnet14-*.json")))
        stop(process, signal.SIGKILL)
    output = project.sweep("--jobs", "2")
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert (project.folder / "dvc.lock").read_bytes() == (finished.folder / "dvc.lock").read_bytes(), output


def test_a_serial_run_seen_from_another_terminal(project):
    params = yamlfile.read(project.folder / "params.yaml")
    project.set(train={**params["train"], "epochs": 2000, "milestones": [1000]}, seeds=[1])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    project.dvc("repro", "plan")
    command = ["dvc", "repro", "--quiet", "-s", "baseline"]
    environment = {**os.environ, "PATH": path}
    with subprocess.Popen(command, cwd=project.folder, env=environment, start_new_session=True) as process:
        try:
            deadline, running = time.monotonic() + 120, []
            while not running:
                assert time.monotonic() < deadline
                time.sleep(0.5)
                found = json.loads(project.run("python", "-m", "stages.status", "--json"))
                running = [one for one in found["steps"] if one["state"] == "running" and one["epoch"]]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert found["sweep"] is None
    (one,) = running
    assert one["step"] == "baseline@resnet14-resnet8-vanilla-base-1"
    assert (one["epochs"], one["host"]) == (2000, platform.node())
    assert one["loss"] > 0
    assert one["seconds_left"] > 0


@pytest.mark.slow
def test_make_repro_leaves_nothing_to_do(project):
    """`-o setup`: what is installed stays as it is."""
    project.set(methods=["kd"], scales=[1])
    assert "done" in project.run("make", "-o", "setup", "repro")
    assert project.ran(project.dvc("repro")) == set()
    assert (project.folder / "tables/digits.md").is_file()
    project.edit("params.yaml", "  lr: 0.02", "  lr: -0.02")
    said = project.run("make", "-o", "setup", "repro", code=2)
    assert "train.lr" in said
    assert "stages.sweep" not in said


@pytest.mark.slow
def test_a_sweep_trains_cells_side_by_side_with_the_bits_of_a_serial_run(project, tmp_path):
    """Those that need the teacher's maps: one process trains them, and the stages of the others only write."""
    project.set(baselines=["vanilla", "at", "rkd", "sp"])
    shutil.copytree(project.folder, tmp_path / "serial", symlinks=True)
    project.sweep("--jobs", "1")
    trained = [json.loads(line)["method"] for line in (project.folder / TIMINGS).read_text().splitlines()]
    assert [method for method in trained if method in ("at", "rkd", "sp")] == ["at"]
    serial = Project(tmp_path / "serial")
    serial.dvc("repro")
    assert (serial.folder / "dvc.lock").read_bytes() == (project.folder / "dvc.lock").read_bytes()


@pytest.mark.slow
def test_a_sweep_after_a_changed_setting_brings_no_old_results_back(project, tmp_path):
    """Though a stage is looked at twice: beside another one, and when it is tried again."""
    project.set(baselines=["vanilla", "at", "sp"], methods=["kd"], scales=[1])
    project.sweep("--jobs", "1")
    project.set(train={**yamlfile.read(project.folder / "params.yaml")["train"], "lr": 0.05})
    shutil.copytree(project.folder, tmp_path / "serial", symlinks=True)
    project.sweep("--jobs", "1")
    serial = Project(tmp_path / "serial")
    serial.dvc("repro")
    assert (serial.folder / "dvc.lock").read_bytes() == (project.folder / "dvc.lock").read_bytes()
    meta = project.folder / "runs/resnet14-resnet8/resnet14-resnet8-sp-base-0/meta.json"
    assert json.loads(meta.read_text())["train"]["lr"] == 0.05
