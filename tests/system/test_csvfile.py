"""Figures in CSV files have the digits that they mean."""

import math

import pandas as pd
import pytest

from kdcore.system import csvfile


@pytest.mark.parametrize(("column", "value", "written"), [
    ("test_top1", 100 * 0.1415, 14.15),
    ("top1_best", 91.27382, 91.2738),
    ("gain_over_plain", 93.0792 - 91.2738, 1.8054),
    ("loss", 1.23456789e-4, 1.23457e-4),
    ("ce", 123.456789, 123.457),
    ("lr", 0.05 * 0.1 * 0.1, 0.0005),
    ("lr", 0.0123456789, 0.0123456789),
    ("gain_p", 1.2345678e-5, 1.23457e-5),
    ("epoch", 3, 3),
    ("stand", True, True),
    ("published", None, None),
    ("commit", "0.1234567890", "0.1234567890"),
])  # fmt: skip
def test_digits_by_column(column, value, written):
    assert csvfile.rounded(column, value) == written
    assert csvfile.rounded(column, written) == written
    assert type(csvfile.rounded(column, value)) is type(value)


def test_rows_and_frames_are_written_alike(tmp_path):
    rows = [{"epoch": 1, "lr": 0.05 * 0.1, "loss": 2 / 3, "test_top1": 100 * 0.1415},
            {"epoch": 2, "lr": 0.005, "loss": 0.5, "test_top1": 20.0}]  # fmt: skip
    assert csvfile.text(rows) == "epoch,lr,loss,test_top1\n1,0.005,0.666667,14.15\n2,0.005,0.5,20.0\n"
    csvfile.write(tmp_path / "history.csv", pd.DataFrame(rows))
    assert (tmp_path / "history.csv").read_text() == csvfile.text(rows)


def test_gaps_and_empty_frames(tmp_path):
    file = tmp_path / "table.csv"
    csvfile.write(file, pd.DataFrame({"pair": ["a", "b"], "published": [None, 1.23456], "gain_p": [math.nan, 0.5]}))
    assert file.read_text() == "pair,published,gain_p\na,,\nb,1.2346,0.5\n"
    csvfile.write(file, pd.DataFrame(columns=["pair", "top1"]))
    assert file.read_text() == "pair,top1\n"
