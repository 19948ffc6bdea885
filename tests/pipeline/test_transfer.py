"""Linear probes in the pipeline: targets that are added to a finished matrix, one of them a folder of images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

PAIR = "resnet14-resnet8"
DIGITS = {"name": "digits", "source": "embedded", "image_size": 32, "train_per_class": 8}


def colours(folder):
    """Write a data set of two classes that anything can tell apart: red and blue images."""
    for number in range(12):
        split = "train" if number < 8 else "test"
        for name, colour in {"red": (200, 0, 0), "blue": (0, 0, 200)}.items():
            noise = np.random.default_rng(number).integers(0, 50, (20, 20, 3))
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray((noise + np.array(colour)).astype(np.uint8)).save(folder / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def transferred(finished, tmp_path_factory):
    """A copy of the finished project to which one target was added, then a second; what ran each time."""
    project = Project(tmp_path_factory.mktemp("transfer") / "project")
    shutil.copytree(finished.folder, project.folder, symlinks=True)
    colours(project.folder / "own")
    before = (project.folder / "tables/digits.md").read_text()
    own = {"source": "folder:own", "image_size": 16}
    project.set(transfer=["digits_32"], targets={"digits_32": DIGITS, "colours": own})
    first = project.ran(project.dvc("repro"))
    project.set(transfer=["digits_32", "colours"])
    second = project.ran(project.sweep("--jobs", "1"))
    return project, before, first, second


def test_a_target_runs_its_data_its_probes_and_tables_alone(transferred):
    project, _, first, second = transferred
    assert first == {"plan", "target@digits_32", f"transfer@{PAIR}-digits_32", "tables"}
    assert second == {"plan", "target@colours", f"transfer@{PAIR}-colours", "tables"}
    assert project.ran(project.dvc("repro")) == set()


def test_every_network_is_probed(transferred):
    project, *_ = transferred
    evaluated = json.loads((project.folder / f"evaluations/{PAIR}/metrics.json").read_text())
    for target, size in (("digits_32", 32), ("colours", 16)):
        probed = json.loads((project.folder / f"evaluations/transfer/{target}/{PAIR}/metrics.json").read_text())
        assert [cell["name"] for cell in probed["cells"]] == [cell["name"] for cell in evaluated["cells"]]
        assert probed["image_size"] == size
        accuracies = [cell["probes"]["default"]["top1"] for cell in probed["cells"]]
        assert all(accuracy > (30 if target == "digits_32" else 99) for accuracy in accuracies)


def test_tables_and_the_page_show_probes_beside_all_that_they_showed_before(transferred):
    project, before, *_ = transferred
    text = (project.folder / "tables/digits.md").read_text()
    assert "### Transfer to colours, protocol default" in text
    assert "seen at 32 x 32 pixels" in text
    assert all(line in text for line in before.splitlines())
    metrics = json.loads((project.folder / "tables/metrics.json").read_text())
    assert metrics["transfer"]["colours"]["default"][PAIR]["kd"]["plain"] > 99
    assert 'id="transfer"' in (project.folder / "tables/report.html").read_text()
    assert (project.folder / "tables/transfer.csv").read_text().count("colours") > 3


def test_removing_the_targets_brings_the_old_tables_back(transferred, tmp_path):
    project, before, *_ = transferred
    copy = Project(tmp_path / "project")
    shutil.copytree(project.folder, copy.folder, symlinks=True)
    copy.set(transfer=[], targets={})
    assert copy.ran(copy.dvc("repro")) <= {"plan", "tables"}
    assert (copy.folder / "tables/digits.md").read_text() == before
    assert not (copy.folder / "tables/transfer.csv").exists()


def test_a_target_of_one_class_is_refused_before_anything_is_probed(transferred, tmp_path):
    project, *_ = transferred
    copy = Project(tmp_path / "project")
    shutil.copytree(project.folder, copy.folder, symlinks=True)
    for split in ("train", "test"):
        shutil.rmtree(copy.folder / "own" / split / "red")
    copy.set(transfer=["alone"], targets={"alone": {"source": "folder:own", "image_size": 16}})
    said = copy.dvc("repro", code=255)
    assert "holds one class, blue; at least two are needed" in said
    assert copy.ran(said) == {"plan", "target@alone"}
