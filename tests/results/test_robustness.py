"""Errors on corrupted images: scores by hand, a pair measured from its folders, tables and the page of made-up ones."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from kdcore.data import cifar100_c, corruptions
from kdcore.data.dataset import Encoded, Split
from kdcore.data.sources import digits
from kdcore.data.stream import stream_unaugmented
from kdcore.matrix import robustness_section
from kdcore.results import evaluation
from kdcore.results import tables as all_tables
from kdcore.results.report import page
from kdcore.results.report import robustness as section
from kdcore.results.robustness import measure, stored, tables
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, write_json
from kdcore.training import loop, run_folder
from tests import made_up
from tests.data import test_cifar100_c as tiny

CPU = torch.device("cpu")
PAIR = "resnet56-resnet20"
COUNT = 10
NAME = "resnet14-resnet8-vanilla-base-0"
CELL = {"name": NAME, "pair": "resnet14-resnet8", "method": "vanilla", "variant": "base", "seed": 0}


# Scores by hand


def cell(*, seed=0, method="vanilla", variant="base", clean=10.0, **error):
    return {"seed": seed, "method": method, "variant": variant, "clean": clean, "error": error}


def test_scores_by_hand():
    """Two corruptions are averaged, the third is not."""
    alone = [cell(seed=0, fog=[20.0] * 5, snow=[40.0] * 5, rain=[50.0] * 5),
             cell(seed=1, clean=14.0, fog=[30.0] * 5, snow=[60.0] * 5, rain=[50.0] * 5)]  # fmt: skip
    student = cell(method="kd", clean=8.0, fog=[10.0, 15.0, 20.0, 25.0, 30.0], snow=[45.0] * 5, rain=[99.0] * 5)
    reference = stored.reference({"cells": [*alone, student]}, [0, 1])
    assert reference == stored.Reference(12.0, {"fog": 25.0, "snow": 50.0, "rain": 50.0})
    got = stored.score(student, ["fog", "snow"], reference)
    assert got.by_corruption == {"fog": 20.0, "snow": 45.0, "rain": 99.0}
    assert got.by_severity == [27.5, 30.0, 32.5, 35.0, 37.5]
    assert (got.clean, got.mean, got.rise) == (8.0, 32.5, 24.5)
    assert got.mce == pytest.approx((100 * 20 / 25 + 100 * 45 / 50) / 2)
    assert got.relative_mce == pytest.approx((100 * 12 / 13 + 100 * 37 / 38) / 2)


def test_the_students_alone_have_100_on_average():
    alone = [cell(seed=0, fog=[20.0] * 5, snow=[40.0] * 5), cell(seed=1, fog=[30.0] * 5, snow=[50.0] * 5)]
    reference = stored.reference({"cells": alone}, [0, 1])
    scores = [stored.score(one, ["fog", "snow"], reference) for one in alone]
    assert np.mean([one.mce for one in scores]) == pytest.approx(100)
    assert np.mean([one.relative_mce for one in scores]) == pytest.approx(100)


def test_nothing_is_normalised_without_the_student_alone():
    """Nor where a seed of it is missing, nor by that of a variant."""
    student = cell(method="kd", fog=[20.0] * 5)
    others = [student, cell(variant="t2", fog=[20.0] * 5)]
    assert stored.reference({"cells": others}, [0]) is None
    assert stored.reference({"cells": [*others, cell(fog=[20.0] * 5)]}, [0, 1]) is None
    got = stored.score(student, ["fog"], None)
    assert (got.mean, got.mce, got.relative_mce) == (20.0, None, None)


def test_nothing_is_divided_by_zero():
    student = cell(method="kd", fog=[20.0] * 5)
    assert stored.score(student, ["fog"], stored.Reference(0.0, {"fog": 0.0})).mce is None
    unhurt = stored.score(student, ["fog"], stored.Reference(30.0, {"fog": 25.0}))
    assert unhurt.mce == 80
    assert unhurt.relative_mce is None


# A pair from its folders


@pytest.fixture(scope="module")
def dataset():
    made = digits.fetch(source="embedded", image_size=16, train_per_class=1)
    return replace(made, test=made.test.take(np.arange(COUNT)))


@pytest.fixture
def pair(tmp_path, monkeypatch, dataset):
    """Measure a teacher and one student, on our corruptions or, by its source, on the published ones."""
    monkeypatch.chdir(tmp_path)
    teacher, student = (loop.create(name, 10, 0, CPU) for name in ("resnet14", "resnet8"))
    run_folder.write(tmp_path / "teacher", teacher, [], {})
    history = [{"epoch": 1, "train_top1": 50.0, "test_top1": 13.0}]
    meta = {**CELL, "recipe": {"ce_weight": 1.0}, "train": {"epochs": 1}, "commit": "abc", "device": "cpu: x",
            "threads": 1, "processes": 1, "computed_in": "float32", "versions": {}}  # fmt: skip

    def pair(network=student, images=dataset, source=None, **changes):
        run_folder.write(tmp_path / "runs/resnet14-resnet8" / NAME, network, history, {**meta, **changes})
        of_set = {"set": "corruptions"} if source is None else {"set": "cifar100_c", "source": str(source)}
        card = {"pair": "resnet14-resnet8", "cells": [CELL], **of_set}
        return measure.measure_pair(card, images, tmp_path / "teacher" / run_folder.WEIGHTS, CPU)

    return pair


def error_of(weights, dataset, images):
    """Measure the error of resnet8 on images as evaluation does."""
    other = replace(dataset, test=replace(dataset.test, images=images))
    metrics, _ = evaluation.evaluate_checkpoint("resnet8", weights, other, CPU)
    return 100 - metrics["top1"]


def test_errors_are_those_that_evaluation_finds(pair, dataset):
    got = pair()
    weights = Path("runs/resnet14-resnet8") / NAME / run_folder.WEIGHTS
    (student,) = got["cells"]
    assert (got["set"], got["test_images"], got["more"]) == ("corruptions", COUNT, [])
    assert got["averaged"] == list(student["error"]) == list(got["teacher"]["error"]) == list(corruptions.CORRUPTIONS)
    assert student["weights_sha256"] == file_sha256(weights)
    assert student["clean"] == pytest.approx(error_of(weights, dataset, dataset.test.images), abs=1e-4)
    for name, severity in (("fog", 5), ("jpeg", 1)):
        images = corruptions.corrupt(dataset.test.images, range(COUNT), name, severity)
        expected = error_of(weights, dataset, images)
        assert student["error"][name][severity - 1] == pytest.approx(expected, abs=1e-4)
    assert json.loads(json.dumps(got)) == got


def test_a_cell_of_another_card_is_not_measured(pair):
    yamlfile.write(Path(f"cards/baseline/{NAME}.yaml"), {**CELL, "recipe": {"ce_weight": 2.0}})
    with pytest.raises(UserError, match=rf"was made from another card than .*; run 'dvc repro -f baseline@{NAME}'"):
        pair()


def test_batches_change_nothing(pair, monkeypatch):
    whole = pair()
    monkeypatch.setattr(measure, "LARGEST_BATCH", 4)
    assert pair() == whole


def test_images_that_are_decoded_as_they_are_needed(pair, dataset, monkeypatch):
    """What networks see of them is corrupted, which evaluation sees too: the middle of the resized image."""
    monkeypatch.setenv("KDCORE_WORKERS", "0")
    files = []
    for image in dataset.test.images[:4]:
        file = BytesIO()
        Image.fromarray(image).resize((40, 30)).save(file, "PNG")
        files.append(file.getvalue())
    encoded = replace(dataset, test=Encoded(pa.table({"label": dataset.test.labels[:4], "image": files})))
    got = pair(images=encoded)
    weights = Path("runs/resnet14-resnet8") / NAME / run_folder.WEIGHTS
    (student,) = got["cells"]
    assert got["test_images"] == 4
    metrics, _ = evaluation.evaluate_checkpoint("resnet8", weights, encoded, CPU)
    assert student["clean"] == pytest.approx(100 - metrics["top1"], abs=1e-4)
    (seen,) = stream_unaugmented(encoded.test, [torch.arange(4)], size=16, device=CPU)
    noisy = corruptions.corrupt(seen.permute(0, 2, 3, 1).numpy(), range(4), "gaussian_noise", 5)
    stored_noisy = replace(dataset, test=Split(noisy, encoded.test.labels))
    assert student["error"]["gaussian_noise"][4] == pytest.approx(error_of(weights, stored_noisy, noisy), abs=1e-4)


def test_what_is_written_is_read_again(pair, tmp_path):
    got = pair()
    folder = tmp_path / robustness_section.folder("corruptions", "resnet14-resnet8")
    folder.mkdir(parents=True)
    write_json(folder / stored.FILE, got)
    assert stored.read(folder) == got
    got["cells"][0]["error"]["fog"].pop()
    write_json(folder / stored.FILE, got)
    with pytest.raises(UserError, match=r"errors\.json: is damaged \(.*lacks a corruption or a severity"):
        stored.read(folder)


def test_weights_that_are_not_finite(pair):
    broken = loop.create("resnet8", 10, 0, CPU)
    with torch.no_grad():
        broken.classifier.bias[0] = float("inf")
    with pytest.raises(UserError, match=r"weights\.safetensors: .*not finite"):
        pair(broken)


def test_a_run_of_something_else(pair):
    with pytest.raises(UserError, match=r"meta\.json: is of another card"):
        pair(method="at")


def test_published_images_of_each_corruption(pair, dataset, tmp_path, monkeypatch):
    """The corrupted images of six test images: those of fog are the clean ones, those of snow black."""
    few = replace(dataset, test=dataset.test.take(np.arange(6)))
    clean = few.test.images
    images = {"fog": np.concatenate([clean] * 5), "snow": np.zeros((30, 16, 16, 3), np.uint8)}
    images["spatter"] = np.concatenate([clean, *[images["snow"][:6]] * 4])
    published = tiny.make(tmp_path / "own", labels=np.tile(few.test.labels, 5), **images)
    monkeypatch.setattr(cifar100_c, "PUBLISHED", published)
    got = pair(images=few, source=tmp_path / "own/CIFAR-100-C.tar")
    assert (got["averaged"], got["more"], got["test_images"]) == (["fog", "snow"], ["spatter"], 6)
    weights = Path("runs/resnet14-resnet8") / NAME / run_folder.WEIGHTS
    (student,), black = got["cells"], error_of(weights, few, images["snow"][:6])
    assert student["error"]["fog"] == [student["clean"]] * 5
    assert student["error"]["snow"] == pytest.approx([black] * 5, abs=1e-4)
    assert student["error"]["spatter"] == pytest.approx([student["clean"], *[black] * 4], abs=1e-4)


def test_published_images_are_refused_before_a_network_is_loaded(pair, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar100_c, "PUBLISHED", tiny.make(tmp_path / "own"))
    with pytest.raises(UserError, match=r"labels\.npy: holds labels of shape \(30,\), not \(50,\)"):
        pair(images=dataset, source=tmp_path / "own", method="at")  # a run of another card, were it read


# Tables and the page


def measured(results, *, more=()):
    """Make up what was measured of every pair: fog costs 10 points, snow 20; spatter is beside the average."""
    found = {}
    for one in results.evaluations:
        names = {"fog": 10, "snow": 20, **dict.fromkeys(more, 50)}

        def errors(top1, names=names):
            clean = round(100 - top1, 4)
            return {"clean": clean, "error": {name: [clean + add + s - 2 for s in range(5)]
                                              for name, add in names.items()}}  # fmt: skip

        cells = [{**cell, **errors(cell["top1"])} for cell in one["cells"]]
        found[one["pair"]] = {
            "pair": one["pair"], "set": "corruptions", "test_images": 10_000, "averaged": ["fog", "snow"],
            "more": list(more), "teacher": errors(one["teacher"]["top1"]), "cells": cells,
        }  # fmt: skip
    return {"corruptions": found}


@pytest.fixture(scope="module")
def results():
    made = made_up.matrix(pairs=[PAIR, "vgg13-vgg8"])
    made = replace(made, card={**made.card, "robustness": ["corruptions"]})
    return replace(made, robustness=measured(made, more=("spatter",)))


def test_a_line_per_row_with_mean_and_deviation_over_seeds(results):
    found = {line.entry.row.label: line for line in tables.lines(results, "corruptions", PAIR)}
    assert list(found) == [entry.row.label for entry in results.entries_of(PAIR)]
    kd = found["KD"]
    clean = [100 - value for value in kd.entry.values]
    mean, deviation = kd.mean_of([one.mean for one in kd.scores])
    assert mean == pytest.approx(np.mean(clean) + 15)
    assert deviation == pytest.approx(np.std(clean, ddof=1), abs=1e-3)
    assert found["Student"].mean_of([one.mce for one in found["Student"].scores])[0] == pytest.approx(100)
    assert len(found["Teacher"].scores) == 1


def test_the_files_of_a_set(results, tmp_path):
    tables.write(results, tmp_path)
    text = (tmp_path / "robustness-corruptions.md").read_text()
    assert "to which no published figure is comparable" in text
    assert f"### Summary of {PAIR}" in text
    assert "mean ± sample standard deviation over n = 3 seeds" in text
    assert "spatter*" in text
    assert "part of no average" in text
    lines = (tmp_path / "robustness-corruptions.csv").read_text().splitlines()
    networks = sum(1 + len(one["cells"]) for one in results.evaluations)
    assert len(lines) == 1 + networks * (1 + 3 * 5)
    metrics = tables.metrics(results)["robustness"]["corruptions"]
    assert metrics[PAIR]["vanilla"]["plain"]["mce"] == 100
    assert set(metrics[PAIR]["kd"]) == {entry.row.key for entry in results.entries_of(PAIR) if entry.row.method == "kd"}


def test_nothing_is_written_where_the_list_is_empty(results, tmp_path):
    """And all other files are those of a matrix that never named a set, metrics.json but for one key."""
    plain = made_up.matrix(pairs=[PAIR, "vgg13-vgg8"])
    for name, one in (("plain", plain), ("with", results)):
        (tmp_path / name).mkdir()
        tables.write(one, tmp_path / name)
        all_tables.write(one, tmp_path / name)
    files = {path.name for path in (tmp_path / "plain").iterdir()}
    new = {path.name for path in (tmp_path / "with").iterdir()} - files
    assert new == {"robustness-corruptions.md", "robustness-corruptions.csv"}
    for file in files - {"metrics.json"}:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "with" / file).read_bytes()
    before, after = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "with"))
    assert list(after) == [*before, "robustness"]
    assert {**after, "robustness": None} == {**before, "robustness": None}
    assert 'id="robustness"' not in page.render(plain)


def test_a_seed_that_was_not_measured_leaves_no_mean(results):
    """Nor does one that was measured on other weights."""
    of_pair = results.robustness["corruptions"][PAIR]
    name = f"{PAIR}-kd-1-False-base-0"
    for cells in (
        [one for one in of_pair["cells"] if one["name"] != name],
        [{**one, "weights_sha256": "1" * 64} if one["name"] == name else one for one in of_pair["cells"]],
    ):
        other = replace(results, robustness={"corruptions": {PAIR: {**of_pair, "cells": cells}}})
        found = {line.entry.row.label: line for line in tables.lines(other, "corruptions", PAIR)}
        assert found["KD"].lacks == "missing"
        assert not found["DKD"].lacks
        unmeasured = tables.lines(other, "corruptions", "vgg13-vgg8")
        assert {line.lacks for line in unmeasured} == {"missing"}
        assert "missing" in str(tables.tables(other, "corruptions")[0].text.loc["KD"].tolist())


def test_the_section_of_the_page(results):
    (shown,) = section.sets(results)
    summary, by_corruption = shown.sheets
    assert [column.title for column in by_corruption.columns][2:] == ["fog", "snow", "spatter"]
    assert len(summary.rows) == len(results.entries)
    assert [figure.title for figure in shown.figures] == [PAIR, "vgg13-vgg8"]
    (line,) = [row for row in summary.rows if [row[0].text, row[1].text] == [PAIR, "Student"]]
    assert line[5].text == "100.00"
    text = page.render(results)
    assert 'href="#robustness"' in text
    assert text.count('id="robustness"') == 1


def test_the_page_of_a_matrix_that_was_not_measured_yet(results):
    waiting = replace(results, robustness={"corruptions": {}})
    (shown,) = section.sets(waiting)
    assert {figure.lacks for figure in shown.figures} == {"No row of this pair has all its seeds measured yet."}
    assert "missing" in page.render(waiting)
    assert tables.tables(waiting, "corruptions")
