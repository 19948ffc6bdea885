"""Regimes of training data in the pipeline: variants of a share, a long tail and noisy labels, up to their figures."""

import json
import shutil

import pytest

from kdcore.system import yamlfile
from tests.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PAIR = "resnet14-resnet8"
REGIMES = {
    "half": {"share": 0.5},
    "tail": {"long_tail": 2},
    "noisy": {"label_noise": {"kind": "symmetric", "rate": 0.5}},
}
ONLY = {"methods": ["kd", "vanilla"]}
FIGURES = ("train.share", "train.long_tail", "train.label_noise.symmetric")


def cells(variant):
    return {f"{PAIR}-kd-1-False-{variant}-0", f"{PAIR}-kd-2-False-{variant}-0", f"{PAIR}-vanilla-{variant}-0"}


@pytest.fixture(scope="module")
def studied(finished, tmp_path_factory):
    """A copy of the finished matrix, with such variants added and run; and the names of the stages that this ran."""
    folder = tmp_path_factory.mktemp("regimes") / "project"
    shutil.copytree(finished.folder, folder, symlinks=True)
    project = Project(folder)
    variants = {name: {"train": train, "only": ONLY} for name, train in REGIMES.items()}
    project.set(variants={"base": {}, **variants})
    return project, project.ran(project.sweep("--jobs", "1"))


def test_variants_train_their_own_cells_alone(studied):
    project, ran = studied
    trained = {name.partition("@")[2] for name in ran if name.startswith(("train@", "baseline@"))}
    assert trained == set().union(*map(cells, REGIMES))
    assert not any(name.startswith(("teacher@", "data")) for name in ran)
    assert project.dvc("status").strip() == "Data and pipelines are up to date."


def test_each_was_trained_on_its_own_regime(studied):
    project, _ = studied
    weights = {}
    for name in ("base", *REGIMES):
        for cell in cells(name):
            meta = json.loads((project.folder / f"runs/{PAIR}/{cell}/meta.json").read_text())
            assert ("images" in meta["code"]) == (name != "base")
            weights[cell] = project.digest(f"runs/{PAIR}/{cell}/weights.safetensors")
    assert len(set(weights.values())) == 3 * 4
    card = yamlfile.read(project.folder / f"cards/baseline/{PAIR}-vanilla-noisy-0.yaml")
    assert card["train"]["label_noise"] == {"kind": "symmetric", "rate": 0.5, "seed": 0}


def test_the_evaluation_has_groups_of_a_long_tail_alone(studied):
    project, _ = studied
    measured = json.loads((project.folder / f"evaluations/{PAIR}/metrics.json").read_text())
    groups = {"head_top1", "medium_top1", "tail_top1", "grouped_by"}
    for cell in measured["cells"]:
        assert groups & set(cell) == (groups if cell["variant"] == "tail" else set())
        assert cell.get("images") == {"half": 10, "tail": 11}.get(cell["variant"])
    assert measured["train_images"] == 20


def test_tables_figures_and_report_show_them(studied):
    project, _ = studied
    tables = project.folder / "tables"
    drawn = {path.name for path in (tables / "figures").iterdir()}
    assert {f"ablation-{key}.{kind}" for key in FIGURES for kind in ("pdf", "png")} <= drawn
    report, text = (tables / "report.html").read_text(), (tables / "digits.md").read_text()
    for key in FIGURES:
        assert f"Accuracy over {key}" in report
    for shown in (report, text):
        assert "long tail, head / medium / tail (%): " in shown
        assert "Label noise: that share of the training images of each class has a wrong label (symmetric:" in shown
    assert "KD, label_noise.symmetric=0.5" in text
