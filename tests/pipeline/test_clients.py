"""What DVC's other clients read: VS Code's extension and Studio show the JSON of these commands as tables and plots."""

import json
import shutil

import pandas as pd
import pytest

from kdcore.matrix import params
from kdcore.system.files import read_json
from tests.project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.pipeline]

METRICS = "tables/metrics.json"
PER_CELL = 1500
"""Bytes per cell and revision that a client has to read; DVC itself names every stage's card and output."""


def told(project, *command):
    """What a command of DVC prints as JSON, and its length in bytes."""
    text = project.dvc(*command, "--json").splitlines()[-1]
    return json.loads(text), len(text.encode())


def test_a_finished_run_has_no_change_to_show(project):
    assert told(project, "data", "status")[0] == {}
    everything, size = told(project, "data", "status", "--granular", "--unchanged")
    cells = [*params.load(project.folder / "params.yaml").cells()]
    assert [*everything] == ["unchanged"]
    for cell in cells:
        assert f"runs/{cell.pair}/{cell.name}/history.csv" in everything["unchanged"]
    assert size < PER_CELL * len(cells)


@pytest.fixture
def shipped(project):
    """The default matrix with its lock and tables, committed, and one figure that was changed after that."""
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, project.folder / name)
    shutil.copytree(ROOT / "tables", project.folder / "tables", dirs_exist_ok=True)
    project.commit()
    metrics = read_json(project.folder / METRICS)
    metrics["resnet20-resnet8"]["kd"]["plain"] += 1
    (project.folder / METRICS).write_text(json.dumps(metrics))
    rows = pd.read_csv(project.folder / "tables/top1.csv")
    rows.loc[rows.row == "KD", "top1"] += 1
    rows.to_csv(project.folder / "tables/top1.csv", index=False)
    return project


def test_the_table_of_experiments_is_small_and_whole(shipped):
    shown, size = told(shipped, "exp", "show")
    matrix = params.load(ROOT / "params.yaml")
    cells = [*matrix.cells()]
    assert size < PER_CELL * len(cells) * len(shown)
    now, committed = (one["data"] for one in shown)
    assert (shown[0]["rev"], shown[0].get("error"), shown[1].get("error")) == ("workspace", None, None)
    for pair in matrix.pairs:
        for method in (*matrix.methods, *matrix.baselines):
            assert 0 < now["metrics"][METRICS]["data"][pair][method]["plain"] <= 100
    assert now["metrics"] != committed["metrics"]
    assert now["params"]["params.yaml"]["data"]["train"]["lr"] == matrix.train.lr
    assert {f"runs/{cell.pair}/{cell.name}" for cell in cells} <= {*now["outs"]}


def test_differences_are_those_that_there_are(shipped):
    changed, size = told(shipped, "metrics", "diff")
    assert [*changed[METRICS]] == ["resnet20-resnet8.kd.plain"]
    assert changed[METRICS]["resnet20-resnet8.kd.plain"]["diff"] == pytest.approx(1)
    assert size < 500


def test_plots_show_every_row_of_both_revisions(shipped):
    plots, size = told(shipped, "plots", "diff", "HEAD", "workspace")
    assert {*plots["data"]} == {"tables/top1.csv", "tables/curves.csv", "tables/reliability.csv"}
    assert not plots.get("errors")
    assert size < 400_000
    for name, (plot,) in plots["data"].items():
        assert {*plot["revisions"]} == {"HEAD", "workspace"}, name
        values = pd.DataFrame(plot["content"]["data"]["values"])
        rows = values.groupby("rev")["row"].agg(set)
        assert rows["HEAD"] == rows["workspace"] >= {"KD", "KD + SDD [1,2] + stand"}, name
    colours = plots["data"]["tables/top1.csv"][0]["content"]["spec"]["encoding"]["color"]  # the client's own
    assert {*colours["scale"]["domain"]} == {"HEAD", "workspace"}
    top1 = pd.DataFrame(plots["data"]["tables/top1.csv"][0]["content"]["data"]["values"])
    of_kd = top1[top1.row == "KD"].astype({"top1": float}).groupby("rev")["top1"].mean()
    assert of_kd["workspace"] - of_kd["HEAD"] == pytest.approx(1)
