"""A pair diagnosed from its folders: a student that is its teacher, students with regions, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kdcore import catalog, objective
from kdcore.data.sources import digits
from kdcore.matrix import recipes
from kdcore.matrix.cell import Cell
from kdcore.results import partial
from kdcore.results.diagnostics import measured_cost, pair, stored
from kdcore.results.trained_pair import TrainedCell
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256
from kdcore.training import loop, run_folder, timings
from tests import made_up
from tests.conftest import ROOT

CPU = torch.device("cpu")
PUBLISHED = yamlfile.read(ROOT / "data/recipes.yaml")
PAIR = "resnet14-resnet14"
NAMES = {
    "alone": f"{PAIR}-vanilla-base-0",
    "plain": f"{PAIR}-kd-1-False-base-0",
    "regions": f"{PAIR}-kd-2-False-base-0",
}


def identity(name, **axes):
    return {"name": NAMES[name], "pair": PAIR, "student": "resnet14", "variant": "base", "seed": 0, **axes}


CELLS = [
    identity("alone", method="vanilla"),
    identity("plain", method="kd", scale=1, levels=[1], stand=False),
    identity("regions", method="kd", scale=2, levels=[1, 2], stand=False),
]
CARD = {"pair": PAIR, "data": "digits", "cells": CELLS}


@pytest.fixture(scope="module")
def dataset():
    made = digits.fetch(source="embedded", image_size=16, train_per_class=1)
    return replace(made, test=made.test.take(np.arange(150)))


def network(seed):
    """A network whose predictions differ between images: norms have seen some."""
    made = loop.create("resnet14", 10, seed, CPU)
    with torch.no_grad():
        made.train()(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
        made.classifier.weight.mul_(4)
    return made.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The teacher, a student that equals it, and two that do not."""
    root = tmp_path_factory.mktemp("project")
    run_folder.write(root / "teacher", network(0), [], {})
    for cell, seed in zip(CELLS, (1, 0, 2), strict=True):
        rows = [{"epoch": 1, "train_top1": 50.0, "test_top1": 12.0}]
        meta = {**cell, "recipe": {}, "train": {"epochs": 1}, "commit": "abc", "device": "cpu: x", "threads": 1,
                "processes": 1, "computed_in": "float32", "versions": {}}  # fmt: skip
        run_folder.write(root / "runs" / PAIR / cell["name"], network(seed), rows, meta)
    return root


@pytest.fixture
def weights(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder / "teacher" / run_folder.WEIGHTS


@pytest.fixture(scope="module")
def found(folder, dataset):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return pair.diagnose(CARD, dataset, folder / "teacher" / run_folder.WEIGHTS, CPU)


def cell(found, name):
    return next(one for one in found["cells"] if one["name"] == NAMES[name])


def test_a_student_that_is_its_teacher(found):
    same = cell(found, "plain")
    assert same["correlation_mean"] == same["correlation_max"] == 0
    assert same["agreement"] == found["confidence_images"]
    assert [same["cka"][i][i] for i in range(len(same["cka"]))] == pytest.approx([1] * 5)
    assert same["class_right"] == found["teacher"]["class_right"]
    assert same["picture"] == found["teacher"]["picture"]


def test_a_student_that_is_not(found):
    other = cell(found, "regions")
    assert 0 < other["correlation_mean"] < other["correlation_max"] <= 2
    assert sum(other["agreement"]) < found["images"]
    assert other["cka"][-1][-1] < 0.99
    assert found["images"] == sum(found["class_images"]) == sum(found["confidence_images"]) == 150
    assert all(right <= images for right, images in zip(other["class_right"], found["class_images"], strict=True))


def test_regions_are_those_of_the_cells_that_have_some(found):
    assert "regions" not in cell(found, "plain")
    assert {level: sum(kinds) for level, kinds in found["teacher"]["regions"].items()} == {"1": 150, "2": 600}
    both, whole, alone, none = cell(found, "regions")["regions"]["1"]
    assert (whole, alone) == (0, 0)  # the one region is the whole image, for the map's side is a multiple of 4
    assert both == sum(cell(found, "regions")["class_right"])
    assert none == 150 - both


def test_is_the_same_twice_and_can_be_read(found, dataset, weights, tmp_path):
    assert pair.diagnose(CARD, dataset, weights, CPU) == found
    cost = measured_cost.measure(CARD, dataset, weights, CPU)
    stored.write(tmp_path, found, cost)
    assert stored.read(tmp_path) == {**json.loads(json.dumps(found)), "cost": cost}
    assert all(speed > 0 for by_batch in cost["images_per_second"].values() for speed in by_batch.values())
    assert list(cost["images_per_second"]) == ["teacher", "student"]
    (tmp_path / stored.FOUND).write_text('{"pair": "a-b"}')
    with pytest.raises(UserError, match=r"diagnostics\.json: is damaged \(images: Field required\)"):
        stored.read(tmp_path)


class TestHalfway:
    """What the report of unfinished cells reads."""

    @pytest.fixture
    def kept(self, found, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (stored.FOLDER / PAIR).mkdir(parents=True)
        cost = {"device": "cpu", "threads": 1, "images_per_second": {}, "trainings": {}}
        stored.write(stored.FOLDER / PAIR, found, cost)
        return stored.FOLDER / PAIR / stored.FOUND

    def test_are_cells_whose_weights_are_there_now(self, kept, found):
        sums = [one["weights_sha256"] for one in found["cells"]]
        evaluation = {"cells": [{"weights_sha256": sums[0]}, {"weights_sha256": "of another run"}]}
        (read,) = partial._diagnoses([PAIR, "not-there"], [evaluation]).values()
        assert [one["name"] for one in read["cells"]] == [found["cells"][0]["name"]]
        assert partial._diagnoses([PAIR], [{"cells": []}]) == {}

    def test_damaged_ones_count_as_not_there(self, kept, capsys):
        kept.write_text("{}")
        assert partial._diagnoses([PAIR], [{"cells": []}]) == {}
        assert f"warning: {kept}: is damaged" in capsys.readouterr().err


def test_only_the_first_seed_of_a_row_has_a_picture():
    identities = [{**CELLS[1], "seed": seed, "name": str(seed)} for seed in (3, 4)] + [CELLS[2]]
    cells = [TrainedCell(identity, Path(), meta={}, history=pd.DataFrame()) for identity in identities]
    assert [first for _, first in pair._with_first_of_row(cells)] == [True, False, True]


def test_logits_that_are_not_finite(folder, dataset, weights, tmp_path):
    broken = network(0)
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    other = tmp_path / run_folder.WEIGHTS
    other.write_bytes(weights.read_bytes())
    with pytest.raises(UserError, match="logits of 150 of 150 test images are not finite; train it again"):
        pair._seen(broken, weights=other, dataset=dataset, device=CPU, pictured=np.arange(4), has_regions=False)


def test_a_run_of_something_else(dataset, weights):
    card = {**CARD, "cells": [{**CELLS[0], "seed": 5}]}
    with pytest.raises(UserError, match=r"meta\.json: is of another card"):
        pair.diagnose(card, dataset, weights, CPU)


class TestImages:
    def test_are_a_fifth_and_spread_over_classes(self):
        labels = np.repeat(np.arange(100), 200)
        positions = pair.looked_at(labels, 100)
        assert len(positions) == 4000
        assert np.bincount(labels[positions]).tolist() == [40] * 100
        assert np.bincount(labels[positions[:200]]).tolist() == [2] * 100

    @pytest.mark.parametrize(("images", "expected"), [(150, 150), (2000, 2000), (10_000, 2000), (50_000, 10_000)])
    def test_are_at_least_2000_or_all(self, images, expected):
        labels = np.arange(images) % 10
        positions = pair.looked_at(labels, 10)
        assert len(positions) == len(set(positions.tolist())) == expected


WITH_ADAPTERS = [name for name in catalog.methods() if objective.has_adapter(name)]


@pytest.mark.parametrize("method", WITH_ADAPTERS)
def test_parameters_of_adapters_are_counted_without_what_is_computed(method, tmp_path):
    """By the file of a run, as by the parameters of the run itself, for every method that trains something."""
    data = digits.fetch(source="embedded", image_size=16, train_per_class=2)
    axes = {"levels": [1], "stand": False} if catalog.methods()[method].kind == "logit" else {}
    cell = Cell("resnet14-resnet8", method, 0, 1 if axes else None, False if axes else None)
    resolved = recipes.resolve(cell, dataset="cifar100", published=PUBLISHED, overrides={}, stand_recipe="paper")
    card = {"name": cell.name, "student": "resnet8", "method": method, "seed": 0, **axes,
            "recipe": {key: value.value for key, value in resolved.items()},
            "train": {"epochs": 1, "batch_size": 4, "lr": 0.02, "schedule": "cosine",
                      "precision": "float32"}}  # fmt: skip
    run = loop.prepare(card, data, loop.create("resnet14", 10, 1, CPU), device=CPU)
    run_folder.write(tmp_path / "run", run.student, [], {}, adapters=run.objective)
    expected = sum(value.numel() for value in run.objective.parameters())
    assert pair.trained_beside(tmp_path / "run" / run_folder.ADAPTERS) == expected


def test_some_methods_train_something_beside_the_student_and_keep_what_they_compute():
    assert {"crd", "ofd", "fitnet"} <= set(WITH_ADAPTERS)


def test_damaged_adapters(tmp_path):
    (tmp_path / "adapters").write_bytes(b"nothing")
    with pytest.raises(UserError, match="adapters: is damaged"):
        pair.trained_beside(tmp_path / "adapters")
    assert pair.trained_beside(tmp_path / "none") == 0


class TestTrainings:
    """What is taken from the log of trainings."""

    def timing(self, folder, name, **values):
        card = folder / "cards" / ("train" if "kd" in name else "baseline") / f"{name}.yaml"
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(name)
        return made_up.timing(name, **{"card": file_sha256(card), "batch_size": 16, "memory": 5, **values})

    def test_are_the_latest_of_the_present_cards_alone(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        first, last = (self.timing(tmp_path, NAMES["plain"], images_per_second=speed) for speed in (100.0, 160.0))
        beside = replace(last, images_per_second=1.0, beside=1)
        old = replace(self.timing(tmp_path, NAMES["alone"]), card="0" * 64)
        monkeypatch.setattr(timings, "load", lambda: [first, last, beside, old])
        found = measured_cost._timings(CELLS)
        assert found == {NAMES["plain"]: last}
        assert measured_cost._training(last) == {
            "device": "cpu: made up", "threads": 2, "step_milliseconds": 100.0, "memory": 5,
        }  # fmt: skip
