"""Ablations beside settings that are mappings, such as an augmentation."""

from types import SimpleNamespace

from kdcore.results import ablation
from kdcore.results.row import Row, in_words

PLAIN, STRONG = {"erasing": 0.25}, {"erasing": 0.25, "randaugment": {"magnitude": 9}}


def test_lines_are_kept_apart_by_them():
    points = [
        (SimpleNamespace(pair="a-b", row=Row("kd"), declared=True), {"train.mixup": mixup, "train.augmentation": of})
        for of in (PLAIN, STRONG)
        for mixup in (0.2, 0.4)
    ]
    lines = ablation._lines("train.mixup", points)
    assert [list(line.entries) for line in lines] == [[0.2, 0.4]] * 2
    assert [line.differing["augmentation"] for line in lines] == [STRONG, PLAIN]


def test_they_are_written_as_in_params_yaml():
    assert in_words({"augmentation": STRONG}) == "augmentation={erasing: 0.25, randaugment: {magnitude: 9}}"
