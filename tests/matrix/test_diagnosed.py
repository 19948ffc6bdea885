"""List diagnostics of params.yaml: what it may name, and what it changes."""

import pytest

from kdcore.matrix import params
from kdcore.matrix.cards import make_cards
from kdcore.matrix.fingerprint import ROOT
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS

PAIR = "resnet20-resnet8"


@pytest.fixture
def load(tmp_path):
    """Load the project's matrix with other content."""

    def load(remove=(), **changes):
        content = {**yamlfile.read(PARAMS), **changes}
        yamlfile.write(tmp_path / "params.yaml", {key: value for key, value in content.items() if key not in remove})
        return params.load(tmp_path / "params.yaml")

    return load


def cards(matrix):
    recipes, known = (yamlfile.read(ROOT / "data" / name) for name in ("recipes.yaml", "teachers.yaml"))
    return make_cards(matrix, published_recipes=recipes, known_teachers=known)


def test_asking_for_diagnostics_adds_a_card_and_changes_that_of_the_tables_alone(load):
    before, after = cards(load()), cards(load(diagnostics=[PAIR]))
    assert {name for name in after if after[name] != before.get(name)} == {f"diagnose/{PAIR}", "tables"}
    assert set(before) == set(after) - {f"diagnose/{PAIR}"}
    assert "diagnostics" not in before["tables"]
    evaluated = {key: value for key, value in after[f"evaluate/{PAIR}"].items() if key != "code"}
    diagnosed = {key: value for key, value in after[f"diagnose/{PAIR}"].items() if key != "code"}
    assert evaluated == diagnosed


@pytest.mark.parametrize(("value", "message"), [
    ([f"{PAIR}0"], "diagnostics: 'resnet20-resnet80' is no pair of this matrix. Did you mean resnet20-resnet8?"),
    ([PAIR, PAIR], "diagnostics: names resnet20-resnet8 more than once; keep one"),
    (True, "diagnostics: True: must be a list"),
    (PAIR, f"diagnostics: '{PAIR}': must be a list; write diagnostics: [{PAIR}]"),
])  # fmt: skip
def test_what_is_no_list_of_pairs(load, value, message):
    with pytest.raises(UserError) as caught:
        load(diagnostics=value)
    assert message in str(caught.value)


def test_a_file_of_an_earlier_version_is_told_what_to_write(load):
    with pytest.raises(
        UserError, match=r"diagnostics: is missing; add the line 'diagnostics: \[\]', which asks for none$"
    ):
        load(remove=["diagnostics"])


def test_other_missing_keys_are_told_as_before(load):
    with pytest.raises(UserError, match=r"seeds: is missing; give it a value$"):
        load(remove=["seeds"])
