"""What is said of a params file that is right, and may not do what is meant."""

import pytest

from kdcore.matrix import params
from kdcore.matrix.check import warn
from kdcore.system import yamlfile
from tests.project import PARAMS, TRAINED

OWN = {"name": "mine", "source": "folder:mine", "image_size": 16}
ELSEWHERE = {"source": "mine/teacher.pth"}


@pytest.mark.parametrize(("data", "teacher", "is_said"), [
    ({"test_share": 0.2}, ELSEWHERE, True), ({"test_share": 0.2}, TRAINED, False), ({}, ELSEWHERE, False),
])  # fmt: skip
def test_teachers_that_may_have_seen_the_test_images(data, teacher, is_said, capsys):
    content = yamlfile.read(PARAMS)
    content |= {"pairs": ["resnet20-resnet8"], "data": {**OWN, **data}, "teachers": {"resnet20": teacher}}
    warn(params.Params.model_validate(content), "mine.yaml")
    said = capsys.readouterr().err
    assert said.startswith("warning: mine.yaml: data.test_share draws the test images here") == is_said
    assert ("trained on them: resnet20;" in said) == is_said
