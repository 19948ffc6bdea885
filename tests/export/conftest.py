"""A project whose cells have results that no training has made, and the files that its students are exported to."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from kdcore import checkpoints, methods
from kdcore.data import storage
from kdcore.data.sources import digits
from kdcore.export import exporting, forms, student
from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.results import evaluation
from kdcore.system import yamlfile
from kdcore.system.files import file_sha256, whole, write_json
from kdcore.training import loop, made_from, run_folder
from tests.project import ROOT, TINY, copy_lists
from tests.train import top1_of

CPU = torch.device("cpu")
PAIR = "resnet14-resnet8"
KD = [f"{PAIR}-kd-1-False-base-{seed}" for seed in (0, 1)]
SIMKD, ALONE = f"{PAIR}-simkd-base-0", f"{PAIR}-vanilla-base-0"


def awake(network, seed):
    """A network whose predictions differ between images: its norms have seen some."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.train()(torch.randn(64, 3, 16, 16, generator=generator))
        network.classifier.weight.mul_(4)
    return network.eval()


def trained(card, dataset, seed):
    """The folder of a cell's results, which no training has made."""
    network = loop.create(card["student"], 10, seed, CPU)
    if card["method"] == "simkd":
        network = methods.get("simkd").other_end(network, outputs=64, factor=2, size=[4, 4], bias=True)
    network = awake(network, seed)
    row = {"epoch": 1, "lr": 0.1, "loss": 1.0, "ce": 1.0, "train_top1": 10.0, "test_top1": top1_of(network, dataset)}
    teacher = Path("teachers/resnet14/weights.safetensors") if "teacher" in card else None
    made = made_from.describe(file_sha256(Path("data/digits/manifest.json")), teacher and file_sha256(teacher))
    meta = {**card, **run_folder.seen(dataset), **made, "commit": "0123456", "device": "cpu", "threads": 1}
    meta |= {"processes": 1, "computed_in": "float32", "versions": {"torch": torch.__version__}}
    history = [row | {"epoch": epoch} for epoch in range(1, card["train"]["epochs"] + 1)]
    run_folder.write(Path("runs") / PAIR / card["name"], network, history, meta)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A project whose cells have results."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        copy_lists(folder)
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=2)
        with whole(folder / "data/digits") as aside:
            storage.save(dataset, aside)
        content = {**yamlfile.read(ROOT / "params.yaml"), **TINY, "scales": [1], "seeds": [0, 1]}
        content["baselines"] = ["vanilla", "simkd"]
        content["exclude"] = [{"methods": ["simkd"], "seeds": [1]}]
        yamlfile.write(folder / "params.yaml", content)
        lists = {name: yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers")}
        cards = make_cards(
            params.load("params.yaml"), published_recipes=lists["recipes"], known_teachers=lists["teachers"]
        )
        for name, card in cards.items():
            yamlfile.write(folder / f"cards/{name}.yaml", card)
        teacher = awake(loop.create("resnet14", 10, 9, CPU), 9)
        (folder / "pairs").mkdir()
        checkpoints.save(teacher, folder / f"pairs/{PAIR}.safetensors")
        run_folder.write(folder / "teachers/resnet14", teacher, [], {**cards["teacher/resnet14"], "top1": 10.0})
        identities = cards[f"evaluate/{PAIR}"]["cells"]
        for seed, one in enumerate(identities):
            kind = "train" if "scale" in one else "baseline"
            trained(yamlfile.read(folder / f"cards/{kind}/{one['name']}.yaml"), dataset, seed)
        weights = Path(f"pairs/{PAIR}.safetensors")
        summary, _ = evaluation.evaluate_pair(cards[f"evaluate/{PAIR}"], dataset, weights, CPU)
        (folder / f"evaluations/{PAIR}").mkdir(parents=True)
        write_json(folder / f"evaluations/{PAIR}/metrics.json", summary)
    return folder


@pytest.fixture
def here(made, monkeypatch):
    """The project, to be read."""
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def changed(made, tmp_path, monkeypatch):
    """A copy of it to change."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def measured(cell):
    summary = json.loads(Path(f"evaluations/{PAIR}/metrics.json").read_text())
    return next(one for one in summary["cells"] if one["name"] == cell)


@pytest.fixture(scope="session")
def exported(made, tmp_path_factory):
    """Exports a cell, once for each form; returns the file and how it was checked."""

    @cache
    def export(cell, form):
        out = tmp_path_factory.mktemp("exported") / f"student{forms.SUFFIXES[form]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(made)
            return out, exporting.export(student.find(cell), form, out)

    return export
