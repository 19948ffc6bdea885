"""Model cards: accuracy with seeds, teacher, licences."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdcore.export import exporting, forms, licences, student
from kdcore.training import run_folder
from tests.export.conftest import ALONE, KD, PAIR, SIMKD, measured
from tests.project import ROOT


class TestModelCard:
    def test_accuracy_with_seeds(self, here, exported):
        out, _ = exported(KD[0], forms.TORCH)
        card = Path(f"{out}.md").read_text()
        values = [measured(cell)["top1"] for cell in KD]
        assert f"| this file, seed 0 | {values[0]:.2f} |" in card
        assert f"(0: {values[0]:.2f}, 1: {values[1]:.2f}): mean ± sample standard deviation" in card
        assert f"| {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |" in card
        assert "temperature: 4" in card
        assert "- teacher: resnet14" in card
        assert licences.DATA_SETS["digits"] in card
        assert f'torch.export.load("{out.name}")' in card

    def test_one_seed_has_no_deviation(self, here, exported):
        card = Path(f"{exported(SIMKD, forms.SAFETENSORS)[0]}.md").read_text()
        assert "one seed, so its noise is not known" in card
        assert "±" not in card

    def test_a_student_without_a_teacher(self, here, exported):
        card = Path(f"{exported(ALONE, forms.SAFETENSORS)[0]}.md").read_text()
        assert "Trained alone, without a teacher." in card
        assert "- teacher" not in card

    def test_weights_that_were_not_evaluated_yet(self, changed):
        shutil.rmtree("evaluations")
        top1 = pd.read_csv(Path("runs") / PAIR / KD[0] / run_folder.HISTORY)["test_top1"].iloc[-1]
        exporting.export(student.find(KD[0]), forms.SAFETENSORS, Path("a.safetensors"))
        card = Path("a.safetensors.md").read_text()
        assert f"after the last epoch: {top1:.2f} % on test images. Stage evaluate has not measured" in card

    def test_the_terms_are_those_of_the_page(self):
        """docs/sources.md: the last column of its tables."""
        rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs/sources.md").read_text(), re.MULTILINE)
        terms = {row.split(" | ")[0]: row.split(" | ")[-1] for row in rows}
        for name, said in licences.DATA_SETS.items():
            assert terms[f"`{name}`"] == said
        for part, said in licences.CHECKPOINTS.items():
            assert any(part in name and said == licence for name, licence in terms.items()), part

    @pytest.mark.parametrize(("meta", "said"), [
        ({"data": "digits"}, "trained here, on digits"),
        ({"adopted": {"source": "https://github.com/megvii-research/mdistiller/x.tar"}}, "repository: MIT"),
        ({"adopted": {"source": "/home/me/t.pth"}}, "repository: none stated here"),
        (None, "not known here"),
    ])  # fmt: skip
    def test_teachers(self, meta, said):
        assert licences.of_teacher(meta).endswith(said)
