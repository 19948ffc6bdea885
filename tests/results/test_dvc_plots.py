"""Data for `dvc plots`: frames from made-up results, and the templates that dvc.yaml names."""

import json

import pandas as pd
import pytest

from kdcore.results import dvc_plots
from kdcore.results.report import calibration
from kdcore.system import yamlfile
from tests import made_up
from tests.project import ROOT

PAIR = made_up.PAIRS[0]


def of(frame, row):
    return frame[(frame["pair"] == PAIR) & (frame["row"] == row)].reset_index(drop=True)


@pytest.mark.parametrize("frame", [dvc_plots.top1, dvc_plots.reliability])
def test_rows_with_a_missing_seed_are_left_out(frame):
    whole, partly = (
        set(frame(made_up.matrix(pairs=[PAIR], missing=missing))["row"])
        for missing in ((), (f"{PAIR}-kd-1-False-base-1",))
    )
    assert len(whole) == 14
    assert whole - partly == {"KD"}


class TestTop1:
    def test_means_and_deviations(self):
        results = made_up.matrix(pairs=[PAIR])
        frame = dvc_plots.top1(results)
        assert list(frame) == ["pair", "row", "top1", "deviation"]
        assert len(frame) == 14
        entry = next(entry for entry in results.entries if entry.row.label == "DKD + stand")
        line = of(frame, "DKD + stand").iloc[0]
        assert (line["top1"], line["deviation"]) == (round(entry.mean, 2), round(entry.deviation, 2))

    def test_one_seed_has_no_deviation(self):
        assert dvc_plots.top1(made_up.matrix(pairs=[PAIR], seeds=[0]))["deviation"].isna().all()


class TestReliability:
    def test_images_of_all_seeds_are_pooled(self):
        results = made_up.matrix(pairs=[PAIR])
        cells = [cell for cell in results.evaluations[0]["cells"] if cell["method"] == "vanilla"]
        for cell, count, accuracy in zip(cells, (100, 300, 0), (0.5, 0.7, None), strict=True):
            cell["reliability"] = {
                "count": [0] * 14 + [count],
                "confidence": [None] * 14 + [(count and 0.95) or None],
                "accuracy": [None] * 14 + [accuracy],
            }
        found = of(dvc_plots.reliability(results), "Student")
        expected = {"pair": PAIR, "row": "Student", "confidence": 0.95, "accuracy": 0.65, "count": 400}
        assert found.to_dict("records") == [expected]

    def test_the_report_draws_the_same_bins(self, monkeypatch):
        drawn = []
        monkeypatch.setattr(
            dvc_plots, "pooled", lambda networks, pooled=dvc_plots.pooled: drawn.append(1) or pooled(networks)
        )
        calibration.reliability(made_up.matrix(pairs=[PAIR]))
        assert len(drawn) == 16  # 13 rows, and the teacher with each of the three groups

    def test_every_row_and_the_teacher(self):
        results = made_up.matrix()
        frame = dvc_plots.reliability(results)
        assert list(frame) == ["pair", "row", "confidence", "accuracy", "count"]
        assert set(frame["pair"]) == set(made_up.PAIRS)
        assert set(of(frame, "Teacher")["count"]) == set(results.evaluations[0]["teacher"]["reliability"]["count"])
        assert len(frame) == 7 * 14 * made_up.BINS

    def test_nothing_measured(self):
        results = made_up.matrix(pairs=[])
        assert dvc_plots.reliability(results).empty
        assert list(dvc_plots.reliability(results)) == ["pair", "row", "confidence", "accuracy", "count"]


def test_curves_are_means_over_the_seeds_that_have_come():
    """Also of cells that still train and have no result."""
    names = [f"resnet56-resnet20-at-base-{seed}" for seed in (0, 1)]
    history = pd.DataFrame({"cell": names, "epoch": [1, 1], "test_top1": [50.0, 52.0]})
    results = made_up.matrix(pairs=made_up.PAIRS[:1], baselines=("at",), missing=names)
    results.histories["resnet56-resnet20"] = history
    assert dvc_plots.curves(results).to_dict("records") == [
        {"pair": "resnet56-resnet20", "row": "AT", "epoch": 1, "test_top1": 51.0}
    ]


@pytest.mark.parametrize("plot", yamlfile.read(ROOT / "dvc.yaml")["plots"], ids=str)
def test_templates_hold_what_dvc_fills_in(plot):
    """Each names columns that its file has."""
    ((file, options),) = plot.items()
    text = (ROOT / ".dvc/plots" / f"{options['template']}.json").read_text()
    assert all(f"<DVC_METRIC_{name}>" in text for name in ("DATA", "TITLE", "X", "Y"))
    numbers = set(json.loads(text)["data"]["format"]["parse"])
    frames = {"tables/top1.csv": dvc_plots.top1, "tables/reliability.csv": dvc_plots.reliability}
    if file in frames:
        columns = set(frames[file](made_up.matrix(pairs=[PAIR])))
        assert {options["x"], options["y"], "pair", "row"} | numbers <= columns
