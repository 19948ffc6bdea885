"""The comparison with published trainers: its settings are theirs, and its verdict is that of the test."""

from pathlib import Path

import pytest

from benchmarks import parity
from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import ROOT

PRESET = ROOT / "presets/cifar100-parity.yaml"


def test_the_preset_has_the_settings_of_the_published_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    known = {key: yamlfile.read(ROOT / f"data/{key}.yaml") for key in ("recipes", "teachers")}
    made = make_cards(params.load(PRESET), published_recipes=known["recipes"], known_teachers=known["teachers"])
    cells = [card for name, card in made.items() if name.startswith("train/") and "recipe" in card]
    assert len(cells) == 10
    for card in cells:
        stand = card["levels"] == [1]
        weights = {"temperature": 2.0, "ce_weight": 0.1, "kd_weight": 9.0} if stand else {
            "temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9,
        }  # fmt: skip
        assert card["stand"] is stand
        assert card["recipe"].items() >= weights.items()
        assert card["train"].items() >= {
            "epochs": 8, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0005,
            "precision": "float32", "milestones": [5, 6, 7], "lr_decay": 0.1,
        }.items()  # fmt: skip


def test_every_published_row_is_one_of_the_preset():
    for of in yamlfile.read(parity.THEIRS).values():
        assert len(of["top1"]) >= 2
        assert of["cell"] in ({"scale": 4, "stand": False}, {"scale": 1, "stand": True})


@pytest.mark.parametrize(("theirs", "ours", "differ"), [
    ([39.45, 38.38], [38.6, 39.5, 39.0], False),
    ([24.9, 23.0, 23.9], [34.9, 33.0, 33.9], True),
])  # fmt: skip
def test_the_interval_and_p_say_the_same(theirs, ours, differ):
    result = parity.compared(theirs, ours)
    low, high = result["interval"]
    assert (result["p"] < parity.LEVEL) == differ == (not low <= 0 <= high)
    assert result["difference"] == pytest.approx(sum(ours) / len(ours) - sum(theirs) / len(theirs), abs=0.006)
    assert low < result["difference"] < high


def test_welchs_test_by_its_formula():
    """Two against two: the standard error is sqrt(s1^2 / 2 + s2^2 / 2), with 1 / (w1^2 + w2^2) degrees of freedom."""
    result = parity.compared([1.0, 3.0], [11.0, 13.0])
    # Both variances are 2, so the standard error is sqrt(2) and the degrees are 2, where t's 97.5% point is 4.3027.
    assert result["interval"] == pytest.approx([10 - 4.3027 * 2**0.5, 10 + 4.3027 * 2**0.5], abs=0.006)


class TestOurs:
    """The row that is read from a project's table."""

    CELL = {"scale": 4, "stand": False}  # noqa: RUF012 - a constant

    @staticmethod
    def table(folder: Path, *rows: str) -> Path:
        (folder / "tables").mkdir()
        text = "\n".join(["pair,method,scale,stand,seed,top1", *rows, ""])
        (folder / "tables/cells.csv").write_text(text)
        return folder

    def test_seeds_are_in_order_and_other_rows_left_out(self, tmp_path):
        rows = ['resnet56-resnet20,kd,4,False,1,39.5', 'resnet56-resnet20,kd,4,False,0,38.6',
                "resnet56-resnet20,kd,1,True,0,24.1", 'resnet56-resnet20,dkd,4,False,0,40.1',
                'resnet56-resnet8,kd,4,False,0,30.1']  # fmt: skip
        assert parity.ours(self.table(tmp_path, *rows), self.CELL) == [38.6, 39.5]

    def test_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"cells.csv: is missing; run presets/cifar100-parity.yaml"):
            parity.ours(tmp_path, self.CELL)
        with pytest.raises(UserError, match="has 1 cells of kd"):
            parity.ours(self.table(tmp_path, "resnet56-resnet20,kd,4,False,0,38.6"), self.CELL)
