"""Every data set from its files to a table, through the real loaders."""

import json

import pandas as pd
import pytest

from kdcore.matrix import params
from kdcore.system import yamlfile
from stages import data, evaluate, pairs, plan, tables, teacher, train
from tests.data.test_published_sets import write_cub, write_imagenet, write_tiny
from tests.pictures import write_tree
from tests.project import PARAMS, TRAINED, copy_lists

MATRIX = {"methods": ["kd"], "scales": [4], "stand": [True], "seeds": [0], "baselines": ["vanilla"]}
TRAIN = {"epochs": 1, "batch_size": 4, "schedule": "cosine", "exceptions": []}


def run_stages(folder, pair, section):
    """All stages in this process, in the order of the pipeline."""
    content = yamlfile.read(PARAMS)
    content |= MATRIX | {"pairs": [pair], "data": section, "train": content["train"] | TRAIN}
    content["teachers"] = {pair.split("-")[0]: TRAINED}
    yamlfile.write(folder / "params.yaml", content)
    copy_lists(folder)
    plan.main()
    data.main()
    teacher.main(pair.split("-")[0])
    pairs.main()
    for cell in params.load().cells():
        train.main(cell.stage, cell.name)
    evaluate.main(pair)
    tables.main()
    return (folder / f"tables/{section['name']}.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair", "write"), [
    ("imagenet", "imagenet_resnet34-imagenet_resnet18", write_imagenet),
    ("cub200", "resnet14-resnet8", write_cub),
    ("tiny_imagenet", "resnet14-resnet8", write_tiny),
])  # fmt: skip
def test_published_layouts(folder, name, pair, write):
    source = write(folder.parent / "source")
    table = run_stages(folder, pair, {"name": name, "source": str(source), "subset": True})
    assert f"on a part of {name} (3 classes)" in table
    assert "KD + SDD [1,2,4] + stand" in table
    cells = pd.read_csv(folder / "tables/cells.csv")
    assert len(cells) == 2
    assert cells["top1"].between(0, 100).all()


def test_large_images_of_ones_own_are_streamed(folder):
    write_tree(folder.parent / "pets", ["cat", "dog"], 6)
    section = {"name": "pets", "source": f"folder:{folder.parent / 'pets'}", "image_size": 40, "test_share": 0.3,
               "augmentation": "random_resized_crop"}  # fmt: skip
    table = run_stages(folder, "resnet14-resnet8", section)
    assert "on pets of the last epoch" in table
    assert list((folder / "data/pets").glob("*.npy")) == []


@pytest.mark.slow
@pytest.mark.pipeline
def test_three_lines_from_a_folder_of_images_to_a_table(project, tmp_path):
    """As docs/extending.md says: nothing but section data of params.yaml changes."""
    write_tree(tmp_path / "pets" / "train", ["cat", "dog"], 8)
    write_tree(tmp_path / "pets" / "test", ["cat", "dog"], 5, start=100)
    project.set(data={"name": "pets", "source": f"folder:{tmp_path / 'pets'}", "image_size": 16})
    project.sweep("--jobs", "2")
    table = (project.folder / "tables/pets.md").read_text()
    assert "on pets of the last epoch" in table
    assert "Hyper-parameters inherited from another data set or method: of every row" in table
    assert json.loads((project.folder / "data/pets/manifest.json").read_text())["counts"] == {"train": 16, "test": 10}
    assert "up to date" in project.dvc("repro")
