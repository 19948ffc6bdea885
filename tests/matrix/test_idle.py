"""What a params file sets for cells that its matrix does not have."""

import pytest
from dvc.utils.hydra import apply_overrides

from kdcore.matrix import idle, params
from kdcore.system import yamlfile
from tests.project import PARAMS

CONTENT = yamlfile.read(PARAMS)
PAIR, OTHER = "resnet20-resnet8", "resnet20-resnet14"
ALONE = {"teachers": {"resnet20": CONTENT["teachers"]["resnet20"]}}
"""The teacher of these pairs and no other."""


@pytest.mark.parametrize(("changes", "named"), [
    ({}, None),
    ({"exceptions": [{"methods": ["kd"], "lr": 0.5}]}, None),
    ({"exceptions": [{"methods": ["kd"], "lr": 0.5}, {"methods": ["mlkd"], "lr": 0.5}]}, "train.exceptions[1]"),
    ({"exceptions": [{"methods": ["kd"], "lr": 0.5}], "exclude": [{"methods": ["kd"]}]}, "train.exceptions[0]"),
    ({"methods_config": {"kd": {"pairs": {PAIR: {"temperature": 7}}}}}, None),
    ({"methods_config": {"kd": {"pairs": {PAIR: {"temperature": 7}}}}, "methods": ["crd+kd"]}, None),
    ({"methods_config": {"kd": {"pairs": {OTHER: {"temperature": 7}}}}}, f"methods_config.kd.pairs.{OTHER}"),
    ({"methods_config": {"kd": {"pairs": {PAIR: {"temperature": 7}}}}, "methods": ["dkd"]},
     f"methods_config.kd.pairs.{PAIR}"),
    ({"variants": {"base": {}, "warm": {"kd": {"temperature": 2, "pairs": {PAIR: {"temperature": 7}}}}}}, None),
    ({"variants": {"base": {}, "warm": {"kd": {"temperature": 2, "pairs": {OTHER: {"temperature": 7}}}}}},
     f"variants.warm.kd.pairs.{OTHER}"),
])  # fmt: skip
def test_it_is_said(capsys, changes, named):
    changes = {"pairs": [PAIR], "methods": ["kd"], "methods_config": {}, "exclude": [], **changes}
    train = {**CONTENT["train"], "exceptions": changes.pop("exceptions", [])}
    idle.warn(params.Params.model_validate({**CONTENT, **ALONE, "train": train, **changes}), "mine.yaml")
    said = (
        "" if named is None else f"warning: mine.yaml: no cell of the matrix has these, which have no effect: {named}\n"
    )
    assert capsys.readouterr().err == said


def test_teachers_of_no_pair(capsys):
    """-S narrows a preset to some of its pairs; what it says is what DVC understands."""
    idle.warn(params.Params.model_validate({**CONTENT, "pairs": [PAIR]}), "mine.yaml")
    assert capsys.readouterr().err == (
        "warning: mine.yaml: no pair has these teachers, which are fetched or trained all the same: wrn_16_2; remove "
        "them there, or from an experiment by -S '~teachers.wrn_16_2'\n"
    )


def test_a_teacher_can_be_left_out_of_an_experiment(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(PARAMS.read_text())
    apply_overrides(file, [f"pairs=[{PAIR}]", "~teachers.wrn_16_2"])
    assert list(params.load(file).teachers) == ["resnet20"]
