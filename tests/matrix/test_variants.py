"""Variants and exclusions: which points of the matrix are cells, what their cards hold, and what is refused."""

import pytest

from kdcore.matrix import left_out, params, selection
from kdcore.matrix.cards import make_cards, resolve_recipes
from kdcore.matrix.cell import Cell
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT

PAIR, OTHER = "resnet20-resnet8", "wrn_16_2-wrn_16_1"
RECIPES, TEACHERS = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))


def matrix(**changes):
    return params.Params.model_validate({**yamlfile.read(PARAMS), **changes})


def cards(**changes):
    return make_cards(matrix(**changes), published_recipes=RECIPES, known_teachers=TEACHERS)


def variants(**others):
    return {"base": {}, **others}


def names(of, variant):
    """The cells of a variant without their pair, variant and seed, of the first pair."""
    cells = [cell for cell in of.cells() if (cell.variant, cell.pair) == (variant, PAIR)]
    return {"-".join(str(value) for value in (c.method, c.scale, c.stand) if value is not None) for c in cells}


class TestCells:
    def test_a_variant_has_the_cells_whose_recipe_it_changes(self):
        of = matrix(variants=variants(t2={"kd": {"temperature": 2}}))
        assert names(of, "t2") == {"kd-1-False", "kd-1-True", "kd-2-False", "kd-2-True"}
        assert len(list(of.cells())) == 20 + 8

    def test_parameters_of_scales_and_stand_change_only_cells_that_use_them(self):
        of = matrix(
            variants=variants(heavy={"kd": {"complementary_weight": 4}}, hot={"dkd": {"stand": {"temperature": 3}}})
        )
        assert names(of, "heavy") == {"kd-2-False", "kd-2-True"}
        assert names(of, "hot") == {"dkd-1-True", "dkd-2-True"}

    def test_training_changes_all_cells_and_only_narrows_them(self):
        training = {"train": {"lr": 0.1}}
        of = matrix(variants=variants(fast=training, few={**training, "only": {"methods": ["kd"], "scales": [2]}}))
        assert len(names(of, "fast")) == 10
        assert names(of, "few") == {"kd-2-False", "kd-2-True"}

    def test_settings_without_effect_make_no_cell(self):
        """Each is of no use where another key, the method or the scale says so; other settings may be equal."""
        of = matrix(variants=variants(
            dot={"train": {"optimizer": "dot", "dot_delta": 0.075}}, maps={"train": {"small_maps": "repeat"}},
            late={"train": {"epochs": 18, "milestones": [15]}, "only": {"methods": ["kd"], "scales": [1]}},
        ))  # fmt: skip
        assert "vanilla" not in names(of, "dot")
        assert names(of, "maps") == {f"{method}-2-{stand}" for method in ("kd", "dkd") for stand in (False, True)}
        assert names(of, "late") == {"kd-1-False", "kd-1-True"}
        train = {**yamlfile.read(PARAMS)["train"], "schedule": "cosine"}
        of = matrix(train=train, variants=variants(decay={"train": {"lr_decay": 0.5, "milestones": [3]}}))
        assert names(of, "decay") == set()

    def test_a_sum_is_changed_with_its_terms(self):
        of = matrix(methods=["kd", "crd+kd"], variants=variants(t2={"kd": {"temperature": 2}}))
        assert {name.split("-")[0] for name in names(of, "t2")} == {"kd", "crd+kd"}

    def test_stages_are_the_product_of_all_axes(self):
        of = matrix(variants=variants(t2={"kd": {"temperature": 2}}))
        assert len(list(of.points())) == 40
        assert Cell(PAIR, "vanilla", 0, variant="t2") in set(of.points()) - set(of.cells())

    @pytest.mark.parametrize(("selector", "count"), [
        ({"methods": ["dkd"]}, 8),
        ({"methods": ["dkd"], "scales": [2]}, 4),
        ({"methods": ["dkd"], "scales": ["L1_2"]}, 4),
        ({"scales": [1, 2]}, 16),
        ({"stand": [True]}, 8),
        ({"pairs": [PAIR]}, 10),
        ({"students": ["resnet8"], "methods": ["at"]}, 1),
        ({"teachers": ["wrn_16_2"], "stand": [False]}, 4),
        ({"variants": ["base"], "methods": ["vanilla"]}, 2),
    ])  # fmt: skip
    def test_exclude(self, selector, count):
        assert len(list(matrix(exclude=[selector]).cells())) == 20 - count

    def test_excluded_cells_are_those_that_any_selector_names(self):
        of = matrix(seeds=[0, 1], exclude=[{"seeds": [1], "methods": ["kd"]}, {"methods": ["kd"], "stand": [True]}])
        assert {(cell.stand, cell.seed) for cell in of.cells() if cell.method == "kd"} == {(False, 0)}


class TestCards:
    def test_a_variant_changes_its_own_cards_alone(self):
        before, after = cards(), cards(variants=variants(t2={"kd": {"temperature": 2}, "train": {"lr": 0.05}}))
        assert all(after[name] == card for name, card in before.items() if name != "tables" and "evaluate" not in name)
        plain, changed = (after[f"train/{PAIR}-kd-2-False-{name}-0"] for name in ("base", "t2"))
        assert changed["recipe"] == {**plain["recipe"], "temperature": 2}
        assert changed["train"] == {**plain["train"], "lr": 0.05}
        assert {key for key in plain if plain[key] != changed[key]} == {"name", "variant", "recipe", "train"}

    def test_its_values_come_after_all_others(self):
        overrides = {"kd": {"temperature": 5, "stand": {"temperature": 6}, "pairs": {PAIR: {"temperature": 7}}}}
        cases = [{"methods": ["kd"], "lr": 0.3}, {"variants": ["t2"], "epochs": 30}]
        train = {**yamlfile.read(PARAMS)["train"], "exceptions": cases}
        made = cards(
            methods_config=overrides,
            train=train,
            variants=variants(t2={"kd": {"temperature": 2}, "train": {"lr": 0.1}}),
        )
        card = made[f"train/{PAIR}-kd-1-True-t2-0"]
        assert (card["recipe"]["temperature"], card["train"]["lr"], card["train"]["epochs"]) == (2, 0.1, 30)
        assert made[f"sources/{PAIR}-kd-1-True-t2-0"]["temperature"]["source"] == "params.yaml, variant t2"

    def test_what_is_left_out_has_a_marker_for_a_card(self):
        made = cards(variants=variants(t2={"kd": {"temperature": 2}}), exclude=[{"methods": ["kd"], "scales": [2]}])
        marked = {name for name, card in made.items() if left_out.is_left_out(card)}
        assert f"baseline/{PAIR}-vanilla-t2-0" in marked
        assert {f"train/{PAIR}-kd-2-{stand}-{name}-0" for stand in (False, True) for name in ("base", "t2")} <= marked
        assert made["tables"]["excluded"] == [
            f"{pair}-kd-2-{stand}-{name}-0"
            for pair in (PAIR, OTHER)
            for stand in (False, True)
            for name in ("base", "t2")
        ]
        listed = {cell["name"] for cell in made[f"evaluate/{PAIR}"]["cells"]}
        assert listed.isdisjoint(name.partition("/")[2] for name in marked)

    def test_excluding_and_lifting_brings_the_same_cards_back(self):
        before = cards()
        assert cards(exclude=[{"methods": ["dkd"]}]) != before
        assert cards(exclude=[]) == before


@pytest.mark.parametrize(("changes", "message"), [
    ({"variants": {}}, "variants: needs base: {}, the matrix without changes"),
    ({"variants": {"base": {"kd": {"temperature": 2}}}}, "variants: needs base: {}"),
    ({"variants": {"base": {}, "t-2": {"train": {"lr": 1.0}}}}, "'t-2' must be letters, digits and _"),
    ({"variants": {"base": {}, "x" * 65: {"train": {"lr": 1.0}}}}, "at most 64"),
    ({"variants": {"base": {}, "a": {"train": {"lr": 1.0}}, "A": {"train": {"lr": 2.0}}}}, "a and A differ"),
    ({"variants": variants(a={"seed": 3})}, "variants.a: 'seed': a variant changes recipes"),
    ({"variants": variants(a={"pairs": [PAIR]})}, "variants.a: 'pairs': a variant changes recipes"),
    ({"variants": variants(a=2)}, "variants.a: 2: must be keys and values"),
    ({"variants": variants(a={"train": {"lr": -1}})}, "variants.a.train.lr: -1: Input should be greater than 0"),
    ({"variants": variants(a={"train": {"learning_rate": 1}})}, "variants.a.train.learning_rate: unknown key"),
    ({"variants": variants(a={"train": {"epochs": 4}})}, "variants.a.train.milestones [11, 14, 16] must rise"),
    ({"variants": variants(a={"only": {}, "train": {"lr": 1.0}})}, "variants.a.only: needs a selector"),
    ({"variants": variants(a={"only": {"methods": []}, "train": {"lr": 1.0}})}, "only.methods: is empty"),
    ({"variants": variants(a={"only": {"variants": ["a"]}, "train": {"lr": 1.0}})}, "only.variants: a variant is for"),
    ({"exclude": [{}]}, "exclude[0]: needs a selector"),
    ({"exclude": [{"method": ["kd"]}]}, "exclude[0].method: unknown key"),
    ({"exclude": [{"variants": ["t2"]}]}, "exclude[0].variants: 't2' is none of section variants: base"),
    ({"exclude": [{"teachers": ["resnet56"]}]}, "exclude[0].teachers: 'resnet56' is none of section teachers"),
    ({"exclude": [{"scales": [3]}]}, "exclude[0].scales[0]"),
])  # fmt: skip
def test_what_is_refused_when_params_are_read(tmp_path, changes, message):
    yamlfile.write(tmp_path / "params.yaml", {**yamlfile.read(PARAMS), **changes})
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "params.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"exclude": [{"methods": ["rld"]}]}, "exclude[0] names no cell of the matrix: none has methods: rld; correct"),
    ({"exclude": [{"methods": ["at"], "scales": [2]}]}, "names no cell of the matrix: none has all that it"),
    ({"exclude": [{"seeds": [0]}]}, "exclude leaves out every cell"),
    ({"variants": variants(a={"rld": {"temperature": 2}})}, "in any cell of the matrix: no cell uses rld"),
    ({"variants": variants(a={"train": {"lr": 1.0}, "only": {"scales": [4]}})}, "`only` names no cell, for none has"),
    ({"variants": variants(a={"train": {"lr": 1.0}, "only": {"methods": ["rld"]}})}, "variants.a changes nothing"),
    ({"scales": [1], "variants": variants(a={"kd": {"complementary_weight": 4}})}, "variants.a changes nothing"),
    ({"variants": variants(a={})}, "variants.a changes nothing"),
])  # fmt: skip
def test_what_names_no_cell_is_refused(changes, message):
    with pytest.raises(UserError) as caught:
        selection.check(of := matrix(**changes), resolve_recipes(of, RECIPES))
    assert message in str(caught.value)


@pytest.mark.parametrize(("others", "message"), [
    ({"a": {"kd": {"temperature": 4, "stand": {"temperature": 1}}}}, "variants.a: all of its cells would be trained"),
    ({"a": {"train": {"lr": 0.02}}}, "variants.a changes nothing in any cell of the matrix"),
    ({"a": {"train": {"lr": 0.1}}, "b": {"train": {"lr": 0.1}}}, "variants.b: all of its cells would"),
    ({"a": {"kd": {"temperature": 2}}, "b": {"kd": {"temperature": 2}, "only": {"scales": [1]}}}, "as those of a"),
    ({"a": {"kd": {"temprature": 2}}}, "variants.a.kd.temprature: unknown parameter. Did you mean temperature?"),
    ({"a": {"kd": {"temperature": -1}}}, "variants.a.kd.temperature: -1 must be a number > 0"),
    ({"a": {"kdd": {"temperature": 1}}}, "variants.a.kdd: unknown method 'kdd'"),
])  # fmt: skip
def test_recipes_that_are_wrong_or_equal_are_refused(others, message):
    with pytest.raises(UserError) as caught:
        cards(variants=variants(**others))
    assert message in str(caught.value)


def test_no_second_copy_of_a_cell_is_trained():
    """A grid over several rows may hold a value that one of them has already, or that another variant has."""
    made = cards(
        variants=variants(t4={"kd": {"temperature": 4}}, hot={"kd": {"temperature": 9}}, some={
            "kd": {"stand": {"temperature": 9}}, "train": {"lr": 0.5}, "only": {"methods": ["kd"], "scales": [2]}}),
    )  # fmt: skip
    trained = {name for name, card in made.items() if name.startswith("train/") and not left_out.is_left_out(card)}
    assert {name for name in trained if "-t4-" in name} == {
        f"train/{pair}-kd-{scale}-True-t4-0" for pair in (PAIR, OTHER) for scale in (1, 2)
    }
    assert len([name for name in trained if "-hot-" in name]) == 8
    assert made["tables"]["excluded"] == []
    assert made["tables"]["copies"][f"{PAIR}-kd-1-False-t4-0"] == f"{PAIR}-kd-1-False-base-0"
    values = [
        str([made[name][key] for key in ("pair", "method", "scale", "stand", "seed", "recipe", "train")])
        for name in trained
    ]
    assert len(set(values)) == len(values)


def test_variants_of_an_augmentation_that_is_a_mapping():
    """Copies are found among them too."""
    given = {"randaugment": {"magnitude": 5}, "erasing": 0.25}
    train = {**yamlfile.read(PARAMS)["train"], "augmentation": given}
    strong = {"train": {"augmentation": {**given, "randaugment": {}}}}
    half = {
        "train": {"augmentation": {"erasing": 0.25, "randaugment": {"magnitude": 5, "std": 0.5}}},
        "kd": {"temperature": 9},
    }
    made = cards(train=train, variants=variants(strong=strong, half=half), baselines=["vanilla", "at"])
    card = made[f"train/{PAIR}-kd-1-False-strong-0"]
    assert card["train"]["augmentation"]["randaugment"]["magnitude"] == 9
    assert not [name for name in made["tables"].get("copies", {}) if "-strong-" in name]


def test_settings_of_a_variant_are_judged_where_it_is_for():
    """A schedule that would not fit another cell does not matter."""
    changes = {"train": {"epochs": 12}, "only": {"methods": ["kd"]}}
    cases = [{"methods": ["kd"], "milestones": [6, 9]}]
    train = {**yamlfile.read(PARAMS)["train"], "exceptions": cases}
    of = matrix(variants=variants(short=changes), train=train)
    assert {of.settings(cell).epochs for cell in of.cells() if cell.variant == "short"} == {12}
