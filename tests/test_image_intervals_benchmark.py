"""Intervals over test images: closed forms."""

import json

import numpy as np
import pytest

from benchmarks.image_intervals import compared, draw, earlier, margin, measured, ordered, packed, row_of, unpacked
from kdcore.results.row import Row
from kdcore.system.errors import UserError


def marked(*counts):
    """Images about which a network is right (1) or not (0), in runs of so many."""
    return np.concatenate([np.full(count, 1.0 - i % 2) for i, count in enumerate(counts)])


def test_an_accuracy():
    """sqrt(p (1 - p) / N), times 1.96."""
    assert margin(marked(60, 40)) == pytest.approx(1.959964 * (0.6 * 0.4 / 100) ** 0.5 * 100, rel=1e-6)


def test_a_difference_on_the_same_images():
    """b = 30 images that one is right about and the other is not, c = 10: sqrt(b + c - (b - c)^2 / N) / N."""
    one, other = marked(70, 30), np.concatenate([marked(40, 30), marked(10, 20)])
    found = compared({"0": one}, {"0": other})
    assert found == {"gain": 20.0, "margin": round(1.959964 * (40 - 400 / 100) ** 0.5, 2), "seeds": 1}


def test_a_difference_counts_seeds_that_both_have():
    one, other = {"0": marked(70, 30), "1": marked(90, 10)}, {"1": marked(80, 20), "2": marked(10, 90)}
    found = compared(one, other)
    assert (found["gain"], found["seeds"]) == (10.0, 1)
    assert compared(one, {"2": marked(10, 90)}) is None


def test_what_a_network_is_right_about_is_kept_as_bits(tmp_path):
    """Of 13 images, which fill no whole number of bytes."""
    right = marked(3, 4, 5, 1)
    assert unpacked(packed(right), 13).tolist() == right.tolist()
    content = {"pair": "a-b", "data": "noise", "images": 13, "cells": {"cell": {"right": packed(right)}}}
    file = tmp_path / "kept.json"
    file.write_text(json.dumps(content))
    assert earlier(file, "a-b", "noise", 13) == content["cells"]
    with pytest.raises(UserError, match="is of a-b on 13 images of noise"):
        earlier(file, "a-b", "noise", 14)


def test_rows_over_the_student_and_over_their_plain_row():
    rows = {
        Row("vanilla"): {"0": marked(50, 50), "1": marked(60, 40)},
        Row("kd", 1, stand=False): {"0": marked(70, 30), "1": marked(70, 30)},
        Row("kd", 4, stand=False): {"0": marked(80, 20), "1": marked(70, 30)},
        Row("dkd", 4, stand=True): {"2": marked(90, 10)},
    }
    lines = {line["row"]: line for line in measured(rows)}
    assert [lines[name]["top1"] for name in ("Student", "KD", "KD + SDD [1,2,4]")] == [55, 70, 75]
    assert "over_student" not in lines["Student"]
    assert lines["KD"]["over_student"]["gain"] == 15
    assert "over_plain" not in lines["KD"]
    assert lines["KD + SDD [1,2,4]"]["over_plain"]["gain"] == 5
    assert "over_student" not in lines["DKD + SDD [1,2,4] + stand"]
    assert "over_plain" not in lines["DKD + SDD [1,2,4] + stand"]


def test_the_row_of_a_cell():
    variant = {"variant": "base", "change": ""}
    assert row_of({"method": "vanilla", "scale": "", "stand": "", **variant}) == Row("vanilla")
    assert row_of({"method": "kd", "scale": "4", "stand": "True", **variant}) == Row("kd", 4, stand=True)
    assert row_of({"method": "kd", "scale": "L1_4", "stand": "True", **variant}) == Row("kd", "L1_4", stand=True)
    hot = row_of({"method": "kd", "scale": "1", "stand": "False", "variant": "hot", "change": "T=8"})
    assert (hot, hot.label) == (Row("kd", 1, stand=False, variant="hot"), "KD, T=8")


def test_the_order_of_rows():
    """That of the tables; tables/cells.csv has the student last."""
    wanted = [
        Row("vanilla"),
        *(Row("kd", scale, stand=stand) for stand in (False, True) for scale in (1, "L4")),
        Row("dkd", 1, stand=False),
    ]
    given = [wanted[i] for i in (3, 4, 2, 1, 5, 0)]
    assert list(ordered({row: {} for row in given})) == wanted


def test_the_figure():
    rows = {Row("vanilla"): {"0": marked(50, 50)}, Row("kd", 4, stand=True): {"0": marked(80, 20)}}
    points = [("Student", 4, 40), ("Student", 8, 50), ("KD + SDD [1,2,4] + stand", 8, 80)]
    epochs = [{"row": row, "epoch": str(epoch), "test_top1": str(top1)} for row, epoch, top1 in points]
    curves, last = draw(dict(zip(rows, measured(rows), strict=True)), epochs).axes
    assert [line.get_xydata().tolist() for line in curves.lines] == [[[4, 40], [8, 50]], [[8, 80]]]
    assert [label.get_text() for label in last.get_yticklabels()] == ["Student", "KD + SDD [1,2,4] + stand"]
    assert [bars.lines[0].get_xdata().tolist() for bars in last.containers] == [[50], [80]]


def test_rows_without_the_student_have_no_gain_over_it():
    rows = {Row("kd", 1, False): {"0": np.array([1.0, 0.0])}}
    (line,) = measured(rows)
    assert (line["top1"], "over_student" in line) == (50.0, False)


def test_files_that_kept_no_cells_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"pair": "a-b", "data": "x", "images": 2, "rows": []}')
    with pytest.raises(UserError, match=r"a\.json: has no cells, only rows"):
        earlier(tmp_path / "a.json", "a-b", "x", 2)
