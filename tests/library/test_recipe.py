"""Published hyper-parameters for other trainers."""

import pytest

import kdcore
from kdcore import catalog
from kdcore.library import recipe as recipes
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import ROOT

SUMS = ["crd+kd", "reviewkd+dkd", "at+sp"]


@pytest.mark.parametrize("method", [*catalog.methods(), *SUMS])
def test_what_is_published_is_accepted_as_ones_own(method):
    """For every data set; of logit methods with regions and stand too."""
    logit = catalog.kind(method) == "logit"
    for dataset in yamlfile.read(ROOT / "data/recipes.yaml").keys() - {"sources"}:
        for levels, stand in [((1,), False), *([((1, 2, 4), True), ((4,), False)] if logit else [])]:
            cell = recipes.cell(method, pair=None, levels=levels, stand=stand)
            found = kdcore.recipe(method, dataset, levels=levels, stand=stand)
            assert recipes.own(cell, found) == recipes.published(cell, dataset)


def test_circumstances_change_values():
    assert kdcore.recipe("kd") == {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0, "warmup": 0}
    assert kdcore.recipe("kd", stand=True) == {"ce_weight": 0.1, "kd_weight": 9.0, "temperature": 2.0, "warmup": 0}
    of_pair = kdcore.recipe("kd", pair="resnet32x4-wrn_16_2", stand=True)
    assert of_pair == {"ce_weight": 0.1, "kd_weight": 9.0, "temperature": 3.0, "warmup": 0}
    regions = kdcore.recipe("kd", levels=(1, 2))
    assert regions.keys() - kdcore.recipe("kd") == {"complementary_weight", "decoupling"}


def test_the_terms_of_a_sum_stand_below_their_names():
    found = kdcore.recipe("crd+kd")
    assert found.keys() == {"ce_weight", "crd", "kd"}
    assert found["crd"]["kd_weight"] == kdcore.recipe("crd")["kd_weight"]
    changed = {**found, "kd": {**found["kd"], "temperature": 2.0}}
    cell = recipes.cell("crd+kd", pair=None, levels=(1,), stand=False)
    assert recipes.own(cell, changed) == {**recipes.published(cell, "cifar100"), "kd.temperature": 2.0}


def test_a_method_without_a_recipe(monkeypatch):
    monkeypatch.setattr(recipes.recipes, "published", lambda: {"cifar100": {"methods": {}}})
    with pytest.raises(UserError, match=r"^data/recipes.yaml has no recipe of kd; give a dictionary of your own$"):
        kdcore.recipe("kd")


@pytest.mark.parametrize(("levels", "scale"), [
    ((1,), 1), ((1, 2), 2), ([1, 2, 4], 4), ((1, 4), "L1_4"), ((2,), "L2"), ((2, 4), "L2_4"),
])  # fmt: skip
def test_levels_are_those_of_a_scale(levels, scale):
    assert recipes.cell("kd", pair=None, levels=levels, stand=False).scale == scale
    assert catalog.levels(scale) == tuple(levels)


@pytest.mark.parametrize("levels", [(), (2, 1), (1, 1), (1, 3), (True,), (1.0,), "12", 2, None])
def test_other_levels(levels):
    with pytest.raises(UserError, match=r"must be a rising choice of 1, 2 and 4, such as \(1, 2, 4\)"):
        kdcore.recipe("kd", levels=levels)
