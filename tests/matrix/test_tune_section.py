"""Section tune: what it may hold, what is refused, and what its variant means to the plan."""

import json
from pathlib import Path

import pytest

from kdcore.matrix import params, tune_section, tuned
from kdcore.matrix.cards import make_cards
from kdcore.matrix.tune_section import Dimension, content, dimension
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT

RECIPES, TEACHERS = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
PAIR = "resnet20-resnet8"
SPACE = {
    "kd.temperature": [1, 8],
    "kd.kd_weight": "log [0.1, 20]",
    "train.lr": "log [0.005, 0.1]",
    "kd.decoupling": "one of [sdd, fusion_as_published]",
}
TUNE = {
    "pairs": [PAIR], "method": "kd", "scale": 2, "space": SPACE, "trials": 30, "validation": 0.1, "pruner": "median",
}  # fmt: skip


def matrix(**changes):
    return params.load(PARAMS, **changes)


def checked(matrix_changes=None, **changes):
    section = {key: value for key, value in {**TUNE, **changes}.items() if value is not None}
    of = matrix(tune=section, **(matrix_changes or {}))
    tune_section.check(of.tune, of)
    return of.tune


def test_the_space_is_ranges_logarithms_and_choices():
    tune = checked()
    assert tune.dimensions == {
        "kd.temperature": Dimension(1, 8),
        "kd.kd_weight": Dimension(0.1, 20, is_log=True),
        "train.lr": Dimension(0.005, 0.1, is_log=True),
        "kd.decoupling": Dimension(choices=("sdd", "fusion_as_published")),
    }
    assert {key: dimension(str(value)) for key, value in tune.dimensions.items() if key != "kd.temperature"} == {
        key: value for key, value in tune.dimensions.items() if key != "kd.temperature"
    }
    assert (tune.study, tune.variant, tune.seeds, tune.axes) == ("kd", "tuned_kd", [0], (2, False))
    assert [cell.name for cell in tune.cells("t", matrix())] == [f"{PAIR}-kd-2-False-t-0"]
    assert tune.only() == {"pairs": [PAIR], "methods": ["kd"], "scales": [2], "stand": [False]}


def test_whole_numbers_are_those_of_the_domain():
    tune = checked(space={"train.batch_size": [8, 32], "kd.temperature": [1, 8]})
    assert [tune.is_integer(key) for key in tune.dimensions] == [True, False]


def test_values_are_rounded_before_they_are_tried_and_stay_in_their_range():
    assert Dimension(0.005, 0.1).rounded(0.0123456) == 0.0123
    assert Dimension(0.12345, 0.5).rounded(0.12346) == 0.12345
    assert Dimension(1, 8).rounded(8.0) == 8.0
    assert Dimension(8, 12345).rounded(12344) == 12344
    assert Dimension(choices=(0.123456,)).rounded(0.123456) == 0.123456
    assert content({"kd.temperature": 2, "crd+kd.kd.kd_weight": 3, "train.lr": 0.1}) == {
        "kd": {"temperature": 2}, "crd+kd": {"kd": {"kd_weight": 3}}, "train": {"lr": 0.1},
    }  # fmt: skip


def test_a_sum_is_searched_through_its_terms():
    space = {"crd+kd.kd.temperature": [1, 8], "kd.kd_weight": [0.1, 2], "crd.negatives": [64, 128]}
    tune = checked({"methods": ["crd+kd"]}, method="crd+kd", space=space)
    assert (tune.study, tune.is_integer("crd.negatives")) == ("crd_kd", True)


def test_a_feature_method_has_neither_scale_nor_stand():
    tune = checked(method="at", scale=None, space={"at.kd_weight": "log [1, 1000]"})
    assert (tune.axes, tune.only()) == ((None, None), {"pairs": [PAIR], "methods": ["at"]})


def test_a_search_for_cells_that_are_excluded_is_refused():
    with pytest.raises(
        UserError, match="tune: exclude leaves out all cells of kd that the values would be for; lift it"
    ):
        checked({"exclude": [{"methods": ["kd"], "scales": [2]}]})
    checked({"exclude": [{"methods": ["kd"], "scales": [1]}]})


def of_space(**space):
    return {"space": {key.replace("__", "."): value for key, value in space.items()}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (of_space(kd__temperatur=[1, 2]), ["tune.space.kd.temperatur: unknown", "mean temperature?", "Allowed: "]),
        (of_space(dkd__alpha=[1, 2]), ["tune.space.dkd.alpha: unknown parameter", "kd.<parameter>, train.<setting>"]),
        (of_space(temperature=[1, 2]), ["tune.space.temperature: unknown parameter"]),
        (of_space(train__lrr=[1, 2]), ["tune.space.train.lrr", "mean lr?"]),
        (of_space(train__epochs=[1, 2]), ["tune.space.train.epochs: no search can choose this"]),
        (of_space(train__share=[0.1, 0.5]), ["tune.space.train.share: no search can choose this"]),
        (of_space(kd__temperature=[-1, 8]), ["tune.space.kd.temperature: -1 must be a number > 0"]),
        (of_space(kd__temperature=[1, 1e31]), ["tune.space.kd.temperature: 1e+31 must be a number > 0 and below"]),
        (of_space(train__momentum=[0.5, 1.5]), ["tune.space.train.momentum: 1.5", "correct the range"]),
        (of_space(train__lr=[-0.1, 1]), ["tune.space.train.lr: -0.1"]),
        (of_space(train__batch_size=[8, 16.5]), ["tune.space.train.batch_size: [8, 16.5]: holds whole numbers"]),
        (of_space(train__optimizer="one of [sgd, dot]"), ["tune.space.train", "dot_delta"]),
        (of_space(kd__temperature=[8, 1]), ["tune.space.kd.temperature: [8, 1]: the low end", "swap them"]),
        (of_space(kd__temperature=[8, 8]), ["tune.space.kd.temperature: [8, 8]: the low end"]),
        (of_space(kd__temperature="log [0, 8]"), ["tune.space.kd.temperature: 'log [0, 8]'", "above 0", "leave out"]),
        (of_space(kd__temperature="one of []"), ["tune.space.kd.temperature: 'one of []': holds no choice"]),
        (of_space(kd__temperature="one of [2, 2]"), ["names a choice more than once"]),
        (of_space(kd__temperature="one of [2, -2]"), ["tune.space.kd.temperature: -2 must be a number > 0"]),
        (of_space(kd__temperature="one of [[2]]"), ["choices must be numbers, words"]),
        (of_space(kd__temperature="from 1 to 8"), ["tune.space.kd.temperature: 'from 1 to 8': must be [low, high]"]),
        (of_space(kd__temperature=[1, 2, 3]), ["tune.space.kd.temperature: [1, 2, 3]: must be [low, high]"]),
        (of_space(kd__temperature="log [1,"), ["tune.space.kd.temperature: 'log [1,': must be"]),
        (of_space(kd__decoupling=[1, 2]), ["tune.space.kd.decoupling: [1, 2]: has no range; write one of [sdd"]),
        ({"scale": 1, **of_space(kd__decoupling="one of [sdd]")}, ["kd.decoupling: changes nothing", "tune.scale"]),
        ({"space": {}}, ["tune.space: is empty; name a parameter"]),
        ({"trials": 0}, ["tune.trials: 0"]),
        ({"pairs": ["resnet20-resnet14"]}, ["tune.pairs: resnet20-resnet14 is no pair of the matrix", PAIR]),
        ({"pairs": []}, ["tune.pairs: []: must name one pair"]),
        ({"method": "kdd"}, ["tune.method", "'kdd'", "mean kd?"]),
        ({"method": "vanilla"}, ["tune.method: vanilla: distils nothing"]),
        ({"method": "nkd", "space": {"nkd.gamma": [1, 2]}}, ["tune.method: nkd is not in section methods; add it"]),
        ({"method": "at"}, ["tune: at is a feature method and takes neither scale nor stand; remove"]),
        ({"scale": 4}, ["tune.scale: 4 is not in section scales; add it"]),
        ({"scale": 3}, ["tune.scale", "3"]),
        ({"validation": 1.5}, ["tune.validation: 1.5"]),
        ({"validation": None}, ["tune.validation: is missing; give the share", "0.1, or set data.validation"]),
        ({"pruner": "best"}, ["tune.pruner: 'best'", "'median' or 'none'"]),
        ({"name": "a-b"}, ["tune.name: 'a-b' must be letters"]),
        ({"name": "a" * 60}, ["name: aaa", "too long"]),
        ({"colour": "red"}, ["tune.colour: unknown key"]),
    ],
)  # fmt: skip
def test_what_is_refused(changes, words):
    with pytest.raises(UserError) as refused:
        checked(**changes)
    assert all(word in str(refused.value) for word in ["params.yaml", "tune", *words]), refused.value


def test_validation_images_are_kept_by_one_key_alone():
    data = {**yamlfile.read(PARAMS)["data"], "validation": 0.2}
    with pytest.raises(UserError, match=r"tune\.validation: 0\.1: data\.validation \(0\.2\) keeps .* remove one"):
        checked({"data": data})
    assert checked({"data": data}, validation=None).validation is None


def test_a_variant_of_another_hand_is_not_replaced():
    theirs = {"base": {}, "tuned_kd": {"kd": {"temperature": 2}}}
    with pytest.raises(UserError, match=r"variants\.tuned_kd: is there already.*tune\.name"):
        checked({"variants": theirs})


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A folder with the record of a search, and nothing else."""
    monkeypatch.chdir(tmp_path)
    protocol = {
        "pairs": [PAIR], "method": "kd", "scale": 1, "stand": False, "seeds": [0], "validation": 0.1,
        "space": {"kd.temperature": "[1, 8]", "train.lr": "[0.01, 0.1]"},
        "trials": {"done": 1, "pruned": 0, "failed": 0},
    }  # fmt: skip
    protocol["conditions"] = tuned.conditions(matrix(), protocol)
    values = {"kd.temperature": 3.2, "train.lr": 0.05}
    record = {
        "name": "kd", "protocol": protocol, "best": {"trial": 0, "score": 91.2, "values": values}, "importances": {},
        "trials": [{"number": 0, "values": values, "score": 91.2, "state": "complete"}],
    }  # fmt: skip
    Path("tuning").mkdir()
    Path("tuning/kd.json").write_text(json.dumps(record))
    only = {"methods": ["kd"], "scales": [1], "stand": [False]}
    return {"kd": {"temperature": 3.2}, "train": {"lr": 0.05}, "only": only, "tuned": "kd"}


def cards(**changes):
    return make_cards(matrix(**changes), published_recipes=RECIPES, known_teachers=TEACHERS)


def test_tuned_changes_the_card_of_the_tables_alone(recorded):
    plain = {key: value for key, value in recorded.items() if key != "tuned"}
    without, made = (cards(variants={"base": {}, "t": variant}) for variant in (plain, recorded))
    assert {name for name in made if made[name] != without[name]} == {"tables"}
    assert made["tables"]["tuning"]["t"]["best"]["score"] == 91.2
    assert "tuning" not in without["tables"]


def test_what_has_changed_since_the_search_is_told(recorded):
    """The data and the settings of training that the search did not choose; the rate was chosen."""
    shipped = yamlfile.read(PARAMS)
    changes = {
        "train": {**shipped["train"], "weight_decay": 0.1, "lr": 0.3},
        "data": {**shipped["data"], "train_per_class": 30},
    }
    made = tuned.card(matrix(variants={"base": {}, "t": recorded}, **changes))["tuning"]["t"]
    assert made["differs"] == ["data.train_per_class", "train.weight_decay"]
    assert "differs" not in tuned.card(matrix(variants={"base": {}, "t": recorded}))["tuning"]["t"]


def test_section_tune_changes_no_card():
    assert cards(tune=TUNE) == cards()


def test_a_variant_without_its_record_is_refused(recorded):
    with pytest.raises(UserError, match=r"variants\.t: has other values than tuning/kd\.json chose"):
        tuned.card(matrix(variants={"base": {}, "t": {**recorded, "kd": {"temperature": 3.3}}}))
    Path("tuning/kd.json").write_text("{}")
    with pytest.raises(UserError, match=r"tuning/kd\.json: is damaged"):
        tuned.card(matrix(variants={"base": {}, "t": recorded}))
    Path("tuning/kd.json").unlink()
    with pytest.raises(UserError, match=r"variants\.t\.tuned: kd: there is no tuning/kd\.json.*stages\.tune"):
        tuned.card(matrix(variants={"base": {}, "t": recorded}))


def test_tuned_names_a_study():
    with pytest.raises(UserError, match="tuned"):
        matrix(variants={"base": {}, "t": {"kd": {"temperature": 2}, "tuned": "../kd"}})
