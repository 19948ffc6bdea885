"""Rows of the matrix: which there are, what they are called, and their keys."""

import pytest

from kdcore.matrix.cards import make_cards
from kdcore.matrix.params import Params
from kdcore.results.row import Row, common_label, in_words, rows
from kdcore.system import yamlfile
from tests import made_up
from tests.project import PARAMS, ROOT

PAIR = made_up.PAIRS[0]


def labels(variants, **options):
    """The labels of the rows that are no base rows."""
    card = made_up.matrix(pairs=[PAIR], seeds=(0,), variants=variants, **options).card
    return [row.label for row in rows(card) if row.variant != "base"]


def test_variants_stand_behind_their_base_row():
    card = made_up.matrix(pairs=[PAIR], seeds=(0,), variants={"t2": {"kd": {"temperature": 2}}}).card
    found = [row.label for row in rows(card)]
    assert found[:6] == ["Teacher", "Student", "KD", "KD, T=2", "KD + SDD [1,2]", "KD + SDD [1,2], T=2"]
    assert not any(label.startswith("DKD") and "T=2" in label for label in found)
    assert len(found) == 2 + 12 + 6


@pytest.mark.parametrize(("method", "label"), [
    ("kd", "KD"), ("swap", "LA"), ("revision", "LR"), ("crd+swap", "CRD+LA"), ("wkd_f+wkd_l", "WKD_F+WKD_L"),
    ("vanilla", "Student"), (None, "Teacher"),
])  # fmt: skip
def test_methods_have_the_names_of_publications(method, label):
    assert Row(method).label == label


@pytest.mark.parametrize(("change", "label"), [
    ({"kd": {"temperature": 2, "kd_weight": 0.5}}, "KD + SDD [1,2] + stand, T=2, kd_weight=0.5"),
    ({"train": {"batch_size": 128, "lr": 0.1}}, "KD + SDD [1,2] + stand, batch_size=128, lr=0.1"),
    ({"train": {"milestones": [15, 18]}}, "KD + SDD [1,2] + stand, milestones=[15,18]"),
    ({"train": {"nesterov": True}}, "KD + SDD [1,2] + stand, nesterov=true"),
    ({"kd": {"stand": {"temperature": 3}}}, "KD + SDD [1,2] + stand, T=3"),
    ({"kd": {"temperature": 2, "kd_weight": 0.5}, "train": {"batch_size": 128, "lr": 0.1}},
     "KD + SDD [1,2] + stand, big"),
    ({"kd": {"pairs": {PAIR: {"temperature": 3}}}}, "KD + SDD [1,2] + stand, T=3"),
])  # fmt: skip
def test_a_label_says_what_is_changed_or_the_name(change, label):
    assert label in labels({"big": change})


def test_rows_with_equal_changes_have_the_names():
    """The plain row has no use for the weight, in which the two differ."""
    grid = {f"w{w}": {"kd": {"temperature": 2, "complementary_weight": w}} for w in (1, 4)}
    assert [label for label in labels(grid) if label.startswith("KD, ")] == ["KD, w1", "KD, w4"]
    assert "KD + SDD [1,2], T=2, complementary_weight=4" in labels(grid)


def test_changes_that_pairs_do_not_share_have_the_name():
    variant = {"kd": {"temperature": 2, "pairs": {PAIR: {"temperature": 3}}}}
    card = made_up.matrix(pairs=made_up.PAIRS[:2], seeds=(0,), variants={"t": variant}).card
    assert "KD, t" in [row.label for row in rows(card)]


@pytest.mark.parametrize(("row", "key"), [
    (Row("kd", 1, False), "1"),
    (Row("kd", 4, True), "1_2_4-stand"),
    (Row("kd", "L1_4", True, "t2"), "1_4-stand-t2"),
    (Row("kd", 1, False, "stand"), "1-variant-stand"),
    (Row("at"), "plain"),
    (Row("at", variant="fast"), "fast"),
    (Row("at", variant="plain"), "variant-plain"),
])  # fmt: skip
def test_keys(row, key):
    assert row.key == key


def test_what_a_variant_changes_does_not_tell_rows_apart():
    assert Row("kd", 1, False, "t", "T=2") == Row("kd", 1, False, "t", "T=3")


def test_words():
    assert in_words({"crd.temperature": 0.5, "kd_weight": 2.0, "mu": "all"}) == "crd.T=0.5, kd_weight=2, mu=all"
    both = [Row("kd", 1, True, "t", "T=2"), Row("kd", 2, True, "t", "T=2, w=4")]
    assert common_label(both) == "KD + stand, T=2, w=4"


def test_of_a_card_as_the_plan_writes_it():
    recipes, teachers = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
    variants = {
        "base": {},
        "t2": {"kd": {"temperature": 2}},
        "fast": {"train": {"lr": 0.1}, "only": {"methods": ["at"]}},
    }
    content = {**yamlfile.read(PARAMS), "variants": variants, "exclude": [{"methods": ["dkd"]}]}
    made = make_cards(Params.model_validate(content), published_recipes=recipes, known_teachers=teachers)
    assert made["tables"]["settings"] == {"lr": 0.02}
    assert [row.label for row in rows(made["tables"])][:8] == [
        "Teacher", "Student", "AT", "AT, lr=0.1", "KD", "KD, T=2", "KD + SDD [1,2]", "KD + SDD [1,2], T=2",
    ]  # fmt: skip
    excepted = {**content, "train": {**content["train"], "exceptions": [{"methods": ["kd"], "lr": 0.5}]}}
    made = make_cards(Params.model_validate(excepted), published_recipes=recipes, known_teachers=teachers)
    assert made["tables"]["settings"] == {"lr": 0.02}
    of_kd = {name for name in made["tables"]["recipes"] if "-kd-" in name}
    assert made["tables"]["settings_of"] == {name: {"lr": 0.5} for name in of_kd}
    of_variant = {**content, "train": {**content["train"], "exceptions": [{"methods": ["at"], "lr": 0.5}]}}
    made = make_cards(Params.model_validate(of_variant), published_recipes=recipes, known_teachers=teachers)
    assert {name.split("-")[3] for name in made["tables"]["settings_of"]} == {"base"}
