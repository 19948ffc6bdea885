"""Key robustness: what it may hold, what is refused, and which cards it makes."""

from functools import cache

import pytest

from kdcore.matrix import cards, params
from kdcore.matrix.check import check
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.conftest import ROOT

CIFAR100 = {"name": "cifar100", "source": "download"}


@cache
def read(name):
    return yamlfile.read(ROOT / name)


def matrix(**changes):
    return params.Params.model_validate({**read("params.yaml"), **changes})


def made(**changes):
    return cards.make_cards(
        matrix(**changes), published_recipes=read("data/recipes.yaml"), known_teachers=read("data/teachers.yaml")
    )


@pytest.fixture
def refused(tmp_path):
    """Return what a person is told of a file with these changes."""

    def refused(remove=(), **changes):
        content = {key: value for key, value in {**read("params.yaml"), **changes}.items() if key not in remove}
        yamlfile.write(tmp_path / "params.yaml", content)
        with pytest.raises(UserError) as error:
            params.load(tmp_path / "params.yaml")
        return str(error.value)

    return refused


def test_the_key_must_be_there_because_dvc_asks_for_it(refused):
    assert "robustness: is missing; add the line 'robustness: []', which asks for none" in refused(
        remove=["robustness"]
    )
    assert "add the line 'robustness: []'" in refused(remove=["robustness"])


@pytest.mark.parametrize(("changes", "said"), [
    ({"robustness": ["corruption"]}, "unknown set of corrupted images 'corruption'. Did you mean corruptions?"),
    ({"robustness": "corruptions"}, "'corruptions': must be a list; write robustness: [corruptions]"),
    ({"robustness": ["corruptions"] * 2}, "names corruptions more than once"),
    ({"robustness": ["cifar100_c"]}, "cifar100_c holds corrupted test images of cifar100, and data.name is digits"),
    ({"robustness_sources": {"corruptions": "a"}}, "only cifar100_c has a source"),
    ({"robustness_sources": {"cifar10_c": "a"}}, "Did you mean cifar100_c?"),
])  # fmt: skip
def test_what_is_refused(refused, changes, said):
    assert said in refused(**changes)


def test_a_missing_copy_is_told_of_at_the_check(tmp_path):
    """Of another file than the project's it is a remark, as all that this machine lacks."""
    changes = {"robustness": ["cifar100_c"], "data": CIFAR100, "robustness_sources": {"cifar100_c": "no/such.tar"}}
    with pytest.raises(UserError, match=r"robustness_sources\.cifar100_c: there is no no/such\.tar\. Allowed: downl"):
        made(**changes)
    yamlfile.write(tmp_path / "other.yaml", {**read("params.yaml"), **changes})
    checked = check(
        str(tmp_path / "other.yaml"), recipes=read("data/recipes.yaml"), known_teachers=read("data/teachers.yaml")
    )
    assert "would not run here: robustness_sources.cifar100_c: there is no no/such.tar" in checked.text


def test_a_copy_where_the_pipeline_writes_is_refused():
    with pytest.raises(UserError, match="robustness_sources: evaluations/c overlaps with evaluations"):
        made(robustness_sources={"cifar100_c": "evaluations/c"})


def test_an_empty_list_makes_no_card():
    found = made()
    assert not any(name.startswith("robustness") for name in found)
    assert "robustness" not in found["tables"]


def test_a_card_per_pair_and_set_names_what_is_measured_and_leaves_the_others_alone():
    """So that adding the key trains nothing and evaluates nothing anew."""
    before, found = made(), made(robustness=["corruptions"])
    new = {f"robustness/{pair}-corruptions" for pair in found["pairs"]["pairs"]}
    assert {name for name in found if found[name] != before.get(name)} == {*new, "tables"}
    assert found["tables"]["robustness"] == ["corruptions"]
    for name in new:
        card, evaluated = found[name], found[f"evaluate/{found[name]['pair']}"]
        assert card["set"] == "corruptions"
        assert card["cells"] == evaluated["cells"]
        assert list(card["code"]) == ["robustness"]
        assert "source" not in card


def test_the_card_of_a_published_set_has_its_source():
    found = made(robustness=["cifar100_c", "corruptions"], data=CIFAR100)
    sources = {name: card.get("source") for name, card in found.items() if name.startswith("robustness/")}
    assert len(sources) == 2 * len(found["pairs"]["pairs"])
    assert {name.partition("-")[2].partition("-")[2]: source for name, source in sources.items()} == {
        "cifar100_c": "download",
        "corruptions": None,
    }
