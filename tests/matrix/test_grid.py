"""`python -m stages.vary`: the grid, what it leaves out, and how it is written into params.yaml."""

import pytest

from kdcore.matrix import params
from kdcore.matrix.grid import Addition, axes, grid, inserted, removed
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT

RECIPES = yamlfile.read(ROOT / "data/recipes.yaml")
TEXT = (PARAMS).read_text()


@pytest.fixture
def add(tmp_path):
    """Add a grid to the project's matrix; returns the addition and the file."""
    file = tmp_path / "params.yaml"
    file.write_text(TEXT)

    def added(*arguments, only=None):
        return Addition.of(str(file), grid(axes(arguments), only or {}), published_recipes=RECIPES), file

    return added


def test_all_combinations():
    made = grid(axes(["kd.temperature=2,4", "train.lr=0.1,0.2", "crd+kd.crd.negatives=-1"]), {"methods": ["kd"]})
    assert len(made) == 4
    assert made["temperature4_lr0_2_negativesm1"] == {
        "only": {"methods": ["kd"]},
        "kd": {"temperature": 4},
        "train": {"lr": 0.2},
        "crd+kd": {"crd": {"negatives": -1}},
    }


def test_lists_and_words_are_values():
    assert axes(["train.milestones=[0.5],[0.6, 0.7]"]) == {("train", "milestones"): [[0.5], [0.6, 0.7]]}
    assert axes(["kd.decoupling=sdd"]) == {("kd", "decoupling"): ["sdd"]}


def test_written_with_all_comments(add):
    """The file is what it was, with lines more; they make the cells that were announced."""
    addition, file = add("kd.temperature=2,8", only={"scales": [1]})
    addition.write()
    before, after = TEXT.splitlines(), file.read_text().splitlines()
    new = [line for line in after if line not in before]
    assert new == [
        "  temperature2: {only: {scales: [1]}, kd: {temperature: 2}}",
        "  temperature8: {only: {scales: [1]}, kd: {temperature: 8}}",
    ]
    assert [line for line in after if line not in new] == before
    assert len(list(params.load(file).cells())) == addition.after == addition.before + 8


@pytest.mark.parametrize("section", [
    "variants: {base: {}}\n",
    "variants: {base: {},\n  old: {train: {lr: 0.5}}}  # a comment\n",
    "variants:\n  base: {}\n  old:\n    train:\n      lr: 0.5\n\n# a comment\n",
    "variants:\n  base: {}",
    "variants: {base: {}}  # a comment",
])  # fmt: skip
def test_written_into_any_form(section):
    content = {"kd": {"temperature": 2}}
    for text in (section, f"a: 1\n{section.rstrip()}\nb: 2\n"):
        after = inserted(text, {"new": content})
        before = yamlfile.parse(text, "before")
        assert yamlfile.parse(after, "after") == {**before, "variants": {**before["variants"], "new": content}}
        assert after.count("# a comment") == text.count("# a comment")


def test_values_that_are_there_already_are_left_out(add):
    addition, _ = add("kd.temperature=1,2,4", only={"stand": [False]})
    assert set(addition.variants) == {"temperature1", "temperature2"}
    assert addition.repeated == {"temperature4": "base"}
    assert "temperature4: left out, no cell would differ from those of base" in addition.text()


@pytest.mark.parametrize(("arguments", "message"), [
    (["temperature=2"], "must be a method's parameter, or a setting, and its values"),
    (["kd.temperature"], "must be a method's parameter"),
    (["kd.temperature="], "must be a method's parameter"),
    (["kd.temperature=[2"], "the values are no YAML"),
    (["kd.temperature=2", "kd.temperature=3"], "is given twice"),
    (["kd.temprature=2"], "variants.temprature2.kd.temprature: unknown parameter. Did you mean temperature?"),
    (["kd.temperature=-1"], "kd.temperature: -1 must be a number"),
    (["rld.temperature=3"], "or no cell of the matrix uses them"),
    (["train.lr=0.02"], "all of these values are there already (base)"),
    ([f"kd.{'t' * 70}=1"], "is too long for a variant's name"),
    (["kd.temperature=2,2"], "temperature2: two combinations of these values have this name"),
])  # fmt: skip
def test_what_is_refused_leaves_the_file(add, arguments, message):
    with pytest.raises(UserError) as caught:
        add(*arguments)
    assert message in str(caught.value)


def test_a_grid_that_is_extended(add):
    """What it wrote before is left out; a variant of that name with other content is not touched."""
    addition, file = add("kd.temperature=2", only={"scales": [1]})
    addition.write()
    made = grid(axes(["kd.temperature=2,8"]), {"scales": [1]})
    more = Addition.of(str(file), made, published_recipes=RECIPES)
    assert (set(more.variants), more.before) == ({"temperature8"}, addition.after)
    assert "temperature2: left out, it is there" in more.text()
    with pytest.raises(UserError, match=r"variants.temperature2: is there already, with other content: {only: "):
        Addition.of(str(file), grid(axes(["kd.temperature=2"]), {}), published_recipes=RECIPES)


def test_removed_again():
    """Whatever stands around it stays, and what follows on the same line goes with it."""
    content = {"kd": {"temperature": 2}}
    assert removed(inserted(TEXT, {"new": content}), "new") == TEXT
    for text in ("variants:\n  base: {}\n  new:\n    kd:\n      temperature: 2  # two\n# a comment\n",
                 "variants:\n  base: {}\n  new: {train: {lr: 0.5}}"):  # fmt: skip
        after = removed(text, "new")
        assert yamlfile.parse(after, "after")["variants"] == {"base": {}}
        assert ("# a comment" in after) == ("# a comment" in text)
