"""Every stored value of published code is compared with."""

from tests.methods import test_golden, test_golden2, test_golden2_features
from tests.reference import index, needs_reference

LEFT_OUT = {"fcfd"}
"""Methods that the project does not have."""


@needs_reference
def test_every_case_is_tested():
    tested = set()
    for module in (test_golden, test_golden2, test_golden2_features):
        tests = [test for name, test in vars(module).items() if name.startswith("test_")]
        marks = [mark for test in tests for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        tested |= {case[0]["id"] for mark in marks for case in mark.args[1]}
    cases = [*index("golden"), *index("golden2")]
    assert tested == {case["id"] for case in cases if case["method"] not in LEFT_OUT}
