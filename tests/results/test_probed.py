"""Tables, numbers, metrics and page of linear probes, from made-up results of two targets and two protocols."""

from dataclasses import replace

import pytest

from kdcore.matrix import protocols
from kdcore.results import captions, probed, published, tables
from kdcore.results.report import page
from kdcore.results.typeset import latex, markdown
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import write_json
from tests import made_up
from tests.project import ROOT

PAIRS = ["wrn_40_2-wrn_16_2", "vgg13-vgg8"]
TARGETS = {"stl10": ["default", "dcd"], "tiny_imagenet": ["default"]}


@pytest.fixture(scope="module")
def bare():
    results = made_up.matrix(pairs=PAIRS, seeds=(0, 1), baselines=("vanilla", "at"), scales=(1, 2))
    settings = {
        name: {
            "target": name,
            "dataset": name,
            "subset": False,
            "protocols": {one: protocols.card(one, name, given=None) for one in names},
        }
        for name, names in TARGETS.items()
    }
    return replace(results, card={**results.card, "transfer": settings})


def points(cell):
    """The accuracy of a cell's probe: that of the cell, less 2."""
    return round(cell["top1"] - 2, 4)


def measured(evaluation, target):
    def probes(cell):
        top1 = points(cell)
        return {name: {"top1": top1, "top1_best": top1 + 1, "top5": 99.0} for name in TARGETS[target]}

    return {
        "pair": evaluation["pair"],
        "target": target,
        "classes": 10,
        "train_images": 5000,
        "test_images": 8000,
        "image_size": 32,
        "teacher": probes(evaluation["teacher"]),
        "cells": [
            {"name": cell["name"], "weights_sha256": cell["weights_sha256"], "probes": probes(cell)}
            for cell in evaluation["cells"]
        ],
    }


@pytest.fixture
def written(bare, tmp_path, monkeypatch):
    for target in TARGETS:
        for evaluation in bare.evaluations:
            folder = tmp_path / "transfer" / target / evaluation["pair"]
            folder.mkdir(parents=True)
            write_json(folder / "metrics.json", measured(evaluation, target))
    monkeypatch.chdir(ROOT)
    return tmp_path


@pytest.fixture
def results(bare, written):
    return probed.with_probes(bare, written)


def test_every_row_has_the_accuracy_of_its_probe(bare, results):
    assert list(results.transfer) == [("stl10", "default"), ("stl10", "dcd"), ("tiny_imagenet", "default")]
    for one in results.transfer.values():
        for entry, own in zip(one.entries, bare.entries, strict=True):
            assert (entry.pair, entry.row) == (own.pair, own.row)
            assert entry.mean == pytest.approx(own.mean - 2)
            assert entry.deviation == (None if own.deviation is None else pytest.approx(own.deviation))
            assert (entry.gain is None) == (own.gain is None)
            assert entry.gain is None or entry.gain == pytest.approx(own.gain)


def test_without_targets_nothing_is_added(bare, tmp_path):
    plain = replace(bare, card={key: value for key, value in bare.card.items() if key != "transfer"})
    assert probed.with_probes(plain, tmp_path) is plain
    assert "transfer" not in tables.metrics(plain)
    tables.write(plain, tmp_path)
    assert not (tmp_path / "transfer.csv").exists()
    assert 'id="transfer"' not in page.render(plain)


def test_published_figures_stand_beside_the_pair_that_has_them(results):
    table = next(
        table for table in tables.tables(results) if table.name.startswith("transfer to stl10, protocol default")
    )
    assert [column for column in table.text if column[1] == "published"] == [("wrn_40_2-wrn_16_2", "published")]
    shown = table.text["wrn_40_2-wrn_16_2", "published"]
    assert shown["Teacher"].startswith("68.60")
    assert shown["Student"].startswith("69.70")
    assert shown["KD"].startswith("70.90")
    assert shown["AT"].startswith("70.70")
    assert shown["DKD"] == "–"
    of_tiny = next(table for table in tables.tables(results) if "tiny_imagenet" in table.name)
    assert of_tiny.text["wrn_40_2-wrn_16_2", "published"]["KD"].startswith("33.90")


def test_notes_say_how_it_was_measured_and_where_figures_come_from(results):
    said = captions.notes(results)
    (of_dcd,) = [note for note in said if note.startswith("Transfer to stl10") and "protocol dcd" in note]
    assert "(10 classes, 5,000 training and 8,000 test images, seen at 32 x 32 pixels)" in of_dcd
    assert "120 epochs of SGD, learning rate 0.05" in of_dcd
    assert "weight decay 0.0005" in of_dcd
    assert "batch norms follow training mode" in of_dcd
    assert len([note for note in said if "which repeats its table 4" in note]) == 1


def test_tables_in_both_forms(results):
    made = tables.tables(results)
    text = markdown(made, "caption", [])
    assert text.count("### Transfer to ") == 3
    assert latex(made, "caption", [], []).count("Transfer to ") >= 3


def test_numbers_and_metrics(results, tmp_path):
    tables.write(results, tmp_path)
    lines = (tmp_path / "transfer.csv").read_text().splitlines()
    assert lines[0].startswith("target,protocol,pair,row,")
    assert len(lines) == 1 + 3 * len(results.entries)
    found = tables.metrics(results)["transfer"]
    assert {target: list(by) for target, by in found.items()} == TARGETS
    own = tables.metrics(results)[PAIRS[0]]["kd"]["plain"]
    assert found["stl10"]["dcd"][PAIRS[0]]["kd"]["plain"] == pytest.approx(own - 2, abs=0.02)


def test_the_page_has_a_sheet_for_each(results):
    html = page.render(results)
    assert 'href="#transfer"' in html
    assert all(f"<h3>{target}, protocol {one}</h3>" in html for target, names in TARGETS.items() for one in names)
    for sheet in page.probes(results):
        assert len(sheet.columns) == len(sheet.rows[0])
        assert "ECE" not in {column.title for column in sheet.columns}


def test_a_pair_that_is_not_probed_yet(bare, written):
    (written / f"transfer/stl10/{PAIRS[1]}/metrics.json").unlink()
    with pytest.raises(UserError, match=f"transfer/stl10/{PAIRS[1]}"):
        probed.with_probes(bare, written)
    some = probed.with_probes(bare, written, partial=True).transfer["stl10", "default"]
    assert {entry.lacks for entry in some.entries_of(PAIRS[1])} == {"missing"}
    assert {entry.lacks for entry in some.entries_of(PAIRS[0])} == {""}


def test_a_cell_that_was_trained_anew_has_no_probe(bare, written):
    evaluations = [
        {**one, "cells": [{**cell, "weights_sha256": "1" * 64} for cell in one["cells"]]} for one in bare.evaluations
    ]
    some = probed.with_probes(replace(bare, evaluations=evaluations), written, partial=True)
    lacks = {entry.lacks for entry in some.transfer["stl10", "default"].entries if entry.row.method}
    assert lacks == {"missing"}


@pytest.mark.parametrize("content", ["{}", '{"pair": 1}', "{"])
def test_damaged_probes_are_refused(bare, written, content):
    file = written / f"transfer/stl10/{PAIRS[0]}/metrics.json"
    file.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        probed.with_probes(bare, written)


def test_published_figures_of_probes_are_of_networks_and_methods_that_exist():
    content = yamlfile.read(ROOT / published.TRANSFER)
    published.check(content, published.TRANSFER)
    assert set(content) == {"sources", "cifar100_to_stl10", "cifar100_to_tiny_imagenet"}
    known = published.Published.of(content, "cifar100_to_stl10", published.TRANSFER)
    assert known.find("wrn_40_2", "wrn_16_2", "crd+kd", [1], False).top1 == 72.2
    with pytest.raises(UserError, match=r"published_transfer\.yaml: a_to_b"):
        published.check({"sources": {}, "a_to_b": [1]}, published.TRANSFER)
