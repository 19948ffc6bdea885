"""What a params file may well set, and is seldom meant."""

import pytest

from kdcore.matrix import doubts, params
from kdcore.system import yamlfile
from tests.project import PARAMS, TRAINED

CONTENT = yamlfile.read(PARAMS)
SMALL = {**CONTENT, "pairs": ["resnet20-resnet8"], "teachers": {"resnet20": TRAINED}, "exclude": [], "methods": ["kd"]}


def said(capsys, **changes):
    doubts.warn(params.Params.model_validate({**SMALL, **changes}), "mine.yaml")
    return capsys.readouterr().err


def named(network, **changes):
    return {"network": network, "source": "train", "train": {**TRAINED["train"], **changes}}


def test_nothing_of_a_matrix_that_is_meant(capsys):
    assert said(capsys) == ""


@pytest.mark.parametrize(("other", "is_said"), [
    (named("resnet20"), True), (named("resnet20", lr=0.03), False), (named("resnet14"), False),
])  # fmt: skip
def test_teachers_that_are_copies(capsys, other, is_said):
    teachers = {"a": named("resnet20"), "b": other}
    line = (
        "warning: mine.yaml: the teachers a, b are one network with one training, and every teacher that is trained "
        "here has seed 0: their weights are equal. Keep one, or change a setting\n"
    )
    assert said(capsys, pairs=["a-resnet8", "b-resnet8"], teachers=teachers) == (line if is_said else "")


@pytest.mark.parametrize(("seeds", "teacher", "is_said"), [
    ([0, 1], TRAINED, True), ([1, 2], TRAINED, False), ([0], {"source": "own.pth"}, False),
])  # fmt: skip
def test_students_that_begin_as_their_teacher(capsys, seeds, teacher, is_said):
    found = said(capsys, pairs=["resnet8-resnet8"], teachers={"resnet8": teacher}, seeds=seeds)
    assert ("resnet8-resnet8: students of seed 0 begin with the initial weights of their teacher" in found) == is_said


STEP = {**CONTENT["train"], "schedule": "step", "lr_decay": 0.1}


@pytest.mark.parametrize(("train", "words"), [
    ({**STEP, "epochs": 24, "milestones": [15, 18, 21]}, ""),
    ({**STEP, "epochs": 180, "milestones": [11, 14, 16]}, "after epoch 16 of 180 (milestones [11, 14, 16])"),
    ({**STEP, "epochs": 180, "milestones": [0.1, 0.2]}, "after epoch 36 of 180"),
    ({**STEP, "epochs": 24, "milestones": [15], "exceptions": [{"methods": ["kd"], "epochs": 240}]}, "15 of 240"),
])  # fmt: skip
def test_rates_that_fall_early(capsys, train, words):
    found = said(capsys, train=train)
    assert words in found
    assert found.count("warning") == bool(words)


def test_the_teachers_too(capsys):
    teacher = {"source": "train", "train": {**STEP, "epochs": 90, "milestones": [20]}}
    assert "teachers.resnet20.train: the rate falls for the last time after epoch 20 of 90" in said(
        capsys, teachers={"resnet20": teacher}
    )
