"""Recipes: the paper's values, the user's on top, and where each came from."""

import pytest

from kdcore import catalog, yamlfile
from kdcore.cell import Cell
from kdcore.errors import UserError
from kdcore.recipes import check_overrides, check_published, resolve
from tests.conftest import ROOT

PUBLISHED = yamlfile.read(ROOT / "data/recipes.yaml")
PAIR = "resnet56-resnet20"


def resolved(method, *, scale=1, stand=False, pair=PAIR, dataset="cifar100", stand_recipe="paper", **overrides):
    """A cell's recipe; further keywords are overrides of its method."""
    cell = Cell(pair, method, 0, scale, stand) if catalog.kind(method) == "logit" else Cell(pair, method, 0)
    return resolve(cell, dataset=dataset, published=PUBLISHED, overrides={method: overrides}, stand_recipe=stand_recipe)


def recipe(method, **options):
    """The values of `resolved`."""
    return {key: value.value for key, value in resolved(method, **options).items()}


def test_kd_as_published():
    assert recipe("kd") == {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9, "warmup": 0}


def test_stand_changes_temperature_and_weight():
    assert recipe("kd", stand=True) == {"temperature": 2.0, "ce_weight": 0.1, "kd_weight": 9.0, "warmup": 0}


def test_matched_stand_changes_nothing():
    assert recipe("kd", stand=True, stand_recipe="matched") == recipe("kd")


def test_regions_have_a_weight():
    assert recipe("kd", scale=2) == {**recipe("kd"), "complementary_weight": 2.0, "decoupling": "sdd"}
    assert recipe("kd", scale="L4")["complementary_weight"] == 2.0
    assert recipe("clkd", scale=2) == recipe("clkd")  # losses across a batch are averaged over regions


def test_values_of_a_pair():
    assert recipe("dkd")["beta"] == 2.0
    assert recipe("dkd", pair="resnet32x4-resnet8x4")["beta"] == 8.0
    assert recipe("dkd", stand=True) == {
        "alpha": 1.0, "beta": 2.0, "temperature": 3.0, "ce_weight": 1.0, "kd_weight": 18.0, "warmup": 20,
    }  # fmt: skip


def test_overrides_beat_papers_and_pairs_beat_methods():
    assert recipe("kd", temperature=3)["temperature"] == 3
    assert recipe("kd", stand=True, temperature=3)["temperature"] == 3
    assert recipe("kd", temperature=3, pairs={PAIR: {"temperature": 5}})["temperature"] == 5
    assert recipe("kd", pair="a-b", temperature=3, pairs={PAIR: {"temperature": 5}})["temperature"] == 3


def test_overrides_of_stand_alone():
    overrides = {"kd": {"stand": {"temperature": 7}}}
    for stand, expected in ((False, 4.0), (True, 7)):
        found = resolve(
            Cell(PAIR, "kd", 0, 1, stand),
            dataset="cifar100",
            published=PUBLISHED,
            overrides=overrides,
            stand_recipe="paper",
        )
        assert found["temperature"].value == expected


def test_sources_are_kept():
    found = resolve(
        Cell(PAIR, "kd", 0, 2, True),
        dataset="digits",
        published=PUBLISHED,
        overrides={"kd": {"warmup": 3}},
        stand_recipe="paper",
    )
    assert found["warmup"].source == "params.yaml"
    assert found["ce_weight"].source == "inherited from cifar100: mdistiller:mdistiller/engine/cfg.py"


def test_own_values_beat_inherited_ones():
    assert recipe("dkd", dataset="digits")["warmup"] == 2
    assert recipe("dkd", dataset="cifar100")["warmup"] == 20


SUM = {
    "ce_weight": 1.0,
    "crd.temperature": 0.07,
    "crd.momentum": 0.5,
    "crd.negatives": 16384,
    "crd.embedding": 128,
    "crd.kd_weight": 0.8,
    "crd.warmup": 0,
    "kd.temperature": 4.0,
    "kd.kd_weight": 1.0,
    "kd.warmup": 0,
}


def test_the_published_fusion_needs_the_whole_image():
    assert recipe("kd", scale="L1_4", decoupling="fusion_as_published")["decoupling"] == "fusion_as_published"
    assert "decoupling" not in recipe("kd", scale=1, decoupling="fusion_as_published")
    with pytest.raises(UserError, match="scales: 'L4': decoupling fusion_as_published needs the whole image"):
        recipe("kd", scale="L4", decoupling="fusion_as_published")


class TestSums:
    def test_a_published_sum(self):
        assert recipe("crd+kd") == SUM
        assert resolved("crd+kd")["kd.kd_weight"].source == "RepDistiller:scripts/run_cifar_distill.sh"
        assert resolved("crd+kd")["crd.momentum"].source == "inherited from crd: mdistiller:mdistiller/engine/cfg.py"

    def test_an_unpublished_sum_takes_what_its_terms_have_alone(self):
        found = resolved("reviewkd+dkd", scale=2)
        assert {value.source.split(":")[0] for key, value in found.items() if key.startswith("dkd.")} == {
            "inherited from dkd"
        }
        assert found["ce_weight"].source.startswith("inherited from reviewkd: ")
        assert found["dkd.complementary_weight"].value == 2.0
        assert found["dkd.beta"].value == recipe("dkd")["beta"]
        assert found["reviewkd.warmup"].value == 20

    def test_stand_acts_on_the_logit_term(self):
        plain, standardised = (recipe("reviewkd+dkd", stand=stand) for stand in (False, True))
        changed = {key for key in plain if plain[key] != standardised[key]}
        assert changed == {"dkd.temperature", "dkd.kd_weight"}

    def test_stand_of_a_term_beats_what_its_sum_has_without_stand(self):
        """The sum's published T = 4 and weight 1 are KD's; with standardised logits KD's are LSKD's."""
        standardised = resolved("crd+kd", stand=True)
        assert standardised["kd.temperature"].value == 2.0
        assert standardised["kd.kd_weight"].value == 9.0
        assert standardised["kd.kd_weight"].source == "inherited from kd: logit-standardization-KD:tools/train.py"
        assert recipe("crd+kd", stand=True, stand_recipe="matched") == SUM

    def test_a_sum_of_feature_methods_has_no_scales(self):
        assert set(recipe("at+sp")) == {"ce_weight", "at.p", "at.kd_weight", "at.warmup", "sp.kd_weight", "sp.warmup"}

    def test_overrides_of_a_sum(self):
        assert recipe("crd+kd", kd={"temperature": 2}, ce_weight=0.5) == {**SUM, "kd.temperature": 2, "ce_weight": 0.5}
        pairs = {PAIR: {"crd": {"negatives": 8}, "stand": {"kd": {"temperature": 9}}}}
        assert recipe("crd+kd", pairs=pairs) == {**SUM, "crd.negatives": 8}
        assert recipe("crd+kd", pairs=pairs, stand=True)["kd.temperature"] == 9

    def test_overrides_of_a_term_alone_reach_its_sums_below_the_sums_own(self):
        cell = Cell(PAIR, "crd+kd", 0, 1, False)
        overrides = {"kd": {"temperature": 2, "kd_weight": 7, "ce_weight": 9}, "crd+kd": {"kd": {"kd_weight": 3}}}
        found = resolve(cell, dataset="cifar100", published=PUBLISHED, overrides=overrides, stand_recipe="paper")
        assert {key: value.value for key, value in found.items()} == {**SUM, "kd.temperature": 2, "kd.kd_weight": 3}


def test_every_method_has_a_recipe_for_the_shipped_data_sets():
    for method in [*catalog.methods(), catalog.VANILLA]:
        for dataset in ("cifar100", "digits"):
            for stand in (False, True):
                assert recipe(method, dataset=dataset, stand=stand, scale=2)


def test_values_without_a_publication_are_marked():
    assert "inherited" in resolved("clkd", stand=True)["kd_weight"].source
    assert "inherited" in resolved("skd", stand=True)["temperature"].source


@pytest.mark.parametrize(("overrides", "message"), [
    ({"kdd": {}}, "methods_config.kdd: unknown method 'kdd'. Did you mean kd?"),
    ({"kd+crd": {}}, "methods_config.kd+crd: 'kd+crd' must be written crd+kd"),
    ({"crd+kd": {"kd": {"temprature": 2}}}, "crd+kd.kd.temprature: unknown parameter. Did you mean kd.temperature?"),
    ({"crd+kd": {"kd.temperature": 3}}, "kd.temperature: unknown parameter. A term's values stand below its name"),
    ({"crd+kd": {"stand": {"crd": {"temperature": 2}}}}, "crd+kd.stand.crd.temperature: unknown parameter"),
    ({"crd+kd": {"kd": 3}}, "methods_config.crd+kd.kd: 3 must be keys and values"),
    ({"crd+kd": {"dkd": {"beta": 3}}}, "methods_config.crd+kd.dkd: unknown parameter"),
    ({"crd+kd": {"kd": {"ce_weight": 3}}}, "methods_config.crd+kd.kd.ce_weight: unknown parameter"),
    ({"crd": {"momentum": 1}}, "methods_config.crd.momentum: 1 must be a number from 0 to below 1"),
    ({"crd": {"negatives": 0}}, "methods_config.crd.negatives: 0 must be an integer from 1 to 1,000,000"),
    ({"crd": {"negatives": 2.0}}, "crd.negatives: 2.0 must be an integer"),
    ({"crd": {"negatives": True}}, "crd.negatives: True must be an integer"),
    ({"kdsvd": {"k": 10**9}}, "kdsvd.k: 1000000000 must be an integer from 1 to 1,000,000"),
    ({"reviewkd": {"student_preact": 1}}, "reviewkd.student_preact: 1 must be false or true"),
    ({"mlkd": {"variant": "right"}}, "mlkd.variant: 'right' must be as_published or as_written"),
    ({"kd": {"decoupling": "lskd"}}, "kd.decoupling: 'lskd' must be sdd or fusion_as_published"),
    ({"clkd": {"decoupling": "sdd"}}, "methods_config.clkd.decoupling: unknown parameter"),
    ({"dkd": {"decoupling": "fusion_as_published"}}, "dkd.decoupling: 'fusion_as_published' must be sdd"),
    ({"at": {"p": 0.5}}, "methods_config.at.p: 0.5 must be a number >= 1"),
    ({"kd": {"temperature": 0}}, "methods_config.kd.temperature: 0 must be a number > 0"),
    ({"kd": {"temperature": -1.0}}, "must be a number > 0"),
    ({"kd": {"temperature": "4"}}, "must be a number > 0"),
    ({"kd": {"temperature": True}}, "must be a number > 0"),
    ({"kd": {"temperature": float("inf")}}, "must be a number > 0"),
    ({"kd": {"temperature": 10**400}}, "must be a number > 0"),
    ({"kd": {"kd_weight": float("nan")}}, "must be a number >= 0"),
    ({"kd": {"temprature": 4}}, "methods_config.kd.temprature: unknown parameter. Did you mean temperature?"),
    ({"kd": {"stand": 3}}, "methods_config.kd.stand: 3 must be keys and values"),
    ({"kd": {"stand": {"bogus": 3}}}, "methods_config.kd.stand.bogus: unknown parameter"),
    ({"rld": {"bogus": 3}}, "methods_config.rld.bogus: unknown parameter"),
    ({"nkd": {"nontarget": "all"}}, "'all' must be exclude_target or all_classes"),
    ({"kd": {"pairs": 3}}, "methods_config.kd.pairs: 3 must be keys and values"),
    ({"kd": {"pairs": {"a-b": {}}}}, "methods_config.kd.pairs.a-b: unknown network 'a'"),
    ({"kd": {"pairs": {PAIR: 3}}}, "must be keys and values"),
    ({"kd": {"pairs": {1: {"temperature": 2}}}}, "pairs.1: 1 must be teacher-student"),
    ({"at": {"stand": {"kd_weight": 5}}}, "methods_config.at.stand: unknown parameter"),
    ({"kd": {"pairs": {PAIR: {"stand": {"temperature": 0}}}}}, "temperature: 0 must be"),
    ({"kd": {"pairs": {PAIR: {"pairs": {}}}}}, "A pair's values stand directly below it"),
])  # fmt: skip
def test_bad_overrides(overrides, message):
    with pytest.raises(UserError) as caught:
        check_overrides(overrides)
    assert message in str(caught.value)


def test_shipped_recipes_are_well_formed():
    check_published(PUBLISHED)


@pytest.mark.parametrize(("section", "message"), [
    ({"methods": {"kdd": {}}}, "x.methods.kdd: unknown method"),
    ({"method": {}}, "x.method: unknown parameter. Did you mean methods?"),
    ({"methods": {"kd": {"pair": {}}}}, "x.methods.kd.pair: unknown parameter. Did you mean pairs?"),
    ({"methods": {"kd": {"default": {"temprature": 1, "source": "a"}}}}, "default.temprature: unknown parameter"),
    ({"methods": {"kd": {"default": {"temperature": 1}}}}, "x.methods.kd.default: needs a source"),
    ({"methods": {"kd": {"default": 3}}}, "x.methods.kd.default: 3 must be keys and values"),
    ({"methods": {"kd": {"pairs": {PAIR: {"stand": {"temperature": 0, "source": "a"}}}}}}, "temperature: 0 must be"),
    ({"methods": {"kd": {"pairs": {"resnet56-resnt20": {}}}}}, "unknown network 'resnt20'. Did you mean resnet20?"),
    ({"methods": {"at": {"stand": {"p": 2, "source": "a"}}}}, "x.methods.at.stand: unknown parameter"),
    ({"inherits": "sources"}, "must be a data set here"),
    ({"inherits": "x"}, "x.inherits: 'x' must be a data set here that inherits nothing itself"),
    ({"inherits": "y"}, "x.inherits: 'y' must be"),
    ({"inherits": ["cifar100"]}, "x.inherits: ['cifar100'] must be"),
    ({"inherits": None}, "x.inherits: None must be"),
])  # fmt: skip
def test_malformed_recipes(section, message):
    with pytest.raises(UserError) as caught:
        check_published({"sources": {}, "x": section})
    assert message in str(caught.value)


def test_missing_value():
    with pytest.raises(UserError, match=r"cifar100\.methods\.kd gives no ce_weight"):
        resolve(
            Cell(PAIR, "kd", 0, 1, False),
            dataset="cifar100",
            published={"cifar100": {"methods": {}}},
            overrides={},
            stand_recipe="paper",
        )


def test_unknown_data_set():
    with pytest.raises(UserError, match="knows no data set 'x'"):
        recipe("kd", dataset="x")
