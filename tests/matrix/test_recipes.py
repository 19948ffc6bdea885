"""Recipes: the paper's values, the user's on top, and where each came from."""

import re

import pytest

from kdcore import catalog
from kdcore.matrix.cell import Cell
from kdcore.matrix.recipes import check_overrides, check_published, resolve
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.conftest import ROOT
from tests.reference import FOLDER, needs_reference

PUBLISHED = yamlfile.read(ROOT / "data/recipes.yaml")
PAIR = "resnet56-resnet20"


def resolved(method, *, scale=1, stand=False, pair=PAIR, dataset="cifar100", stand_recipe="paper", **overrides):
    """A cell's recipe; further keywords are overrides of its method."""
    cell = Cell(pair, method, 0, scale, stand) if catalog.kind(method) == "logit" else Cell(pair, method, 0)
    return resolve(cell, dataset=dataset, published=PUBLISHED, overrides={method: overrides}, stand_recipe=stand_recipe)


def recipe(method, **options):
    """The values of `resolved`."""
    return {key: value.value for key, value in resolved(method, **options).items()}


def test_decay_from_is_in_a_recipe_with_a_cosine_alone():
    """Else a variant of it would be a row of its own that trains the same."""
    assert recipe("kd", scale=1, schedule="cosine", decay_from=0.5)["decay_from"] == 0.5
    for schedule in ("constant", "steps"):
        assert "decay_from" not in recipe("kd", scale=1, schedule=schedule, decay_from=0.5)


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


def test_the_weight_of_consistent_regions_is_said_where_it_is_not_1():
    """So that cards of the published loss do not hold it."""
    assert recipe("kd", scale=2, consistent_weight=1) == recipe("kd", scale=2)
    assert recipe("kd", scale=2, consistent_weight=0) == {**recipe("kd", scale=2), "consistent_weight": 0}
    assert recipe("kd", scale=1, consistent_weight=0) == recipe("kd")
    of_sum = resolved("crd+kd", scale=2, kd={"consistent_weight": 0.5})
    assert of_sum["kd.consistent_weight"].value == 0.5


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


def test_a_value_is_ones_own_only_where_it_is_another_one():
    """The listed source stays beside a value that is written out, and then published figures stay beside the row."""
    cell = Cell(PAIR, "kd", 0, 1, False, variant="x")
    listed = resolved("kd")["temperature"]
    given = {"dataset": "cifar100", "published": PUBLISHED, "stand_recipe": "paper"}

    def source(config, variant=None):
        layers = [{} if value is None else {"kd": {"temperature": value}} for value in (config, variant)]
        value = resolve(cell, overrides=layers[0], changes=layers[1], **given)["temperature"]
        return value.value, value.source

    assert source(4) == source(None, 4.0) == source(7, 4) == (4, listed.source)
    assert source(7) == (7, "params.yaml")
    assert source(4, 7) == source(3, 7) == (7, "params.yaml, variant x")


def test_a_default_in_place_of_a_listed_value_is_told():
    """Else NORM's published figure stood beside a weight that stays, for the list has one that changes in steps."""
    assert recipe("norm", scale=None, stand=None)["schedule"] == "steps"
    assert resolved("norm", scale=None, stand=None, schedule="constant")["schedule"].source == "params.yaml"
    assert "schedule" not in resolved("at", scale=None, stand=None, schedule="constant")


REFERENCE = {"feat_weight": "kd_weight", "alpha_t": "alpha_temperature", "base_temperature": "temperature"}
REFERENCE |= {"beta_before": "beta", "nce_k": "negatives", "nce_momentum": "momentum", "feat_dim": "embedding"}
REFERENCE |= {"nce_temperature": "temperature", "warmup_cli": "warmup"}


def transcribed(section):
    """Every mapping of a part of the reference that names a source: its numbers under our names, source and pair."""
    for part in section.values() if isinstance(section, dict) else section if isinstance(section, list) else ():
        yield from transcribed(part)
    if isinstance(section, dict) and "source" in section:
        about = {key: section.get(key) for key in ("source", "teacher", "student")}
        yield about | {REFERENCE.get(k, k): v for k, v in section.items() if isinstance(v, int | float)}


def layers(published):
    """Of every method of every data set."""
    for dataset, section in published.items():
        for method, of_method in section.get("methods", {}).items():
            for pair, of_pair in {"": of_method, **of_method.get("pairs", {})}.items():
                for kind in {"default", "scales", "stand"} & of_pair.keys():
                    yield (dataset, method, pair, kind), of_pair[kind]


@needs_reference
def test_values_are_those_of_the_files_they_name():
    """Wherever the reference has transcribed the file that a layer of ours names as its source."""
    records = yamlfile.read(FOLDER / "recipes.yaml")["methods"]
    checked = []
    for (dataset, method, pair, kind), layer in layers(PUBLISHED):
        source = layer["source"].rpartition(": ")[2]
        known = [record for record in transcribed(records.get(method, {})) if record["source"] == source]
        if pair and any(record["teacher"] for record in known):
            names = pair.replace("imagenet_", "").split("-")
            known = [record for record in known if [record["teacher"], record["student"]] == names]
        values = {key: value for key, value in layer.items() if key != "source"}
        same = [record for record in known if all(record.get(key, value) == value for key, value in values.items())]
        assert same or not known, (dataset, method, pair, kind)
        checked += [dataset] * bool(known)
    assert {dataset for dataset in checked if checked.count(dataset) >= 15} == {"cifar100", "imagenet", "cub200"}


RENAMED = {
    "scale": "alpha", "renyi_alpha": "alpha", "across_weight": "cross_weight", "threshold_weak": "tau_weak",
    "threshold_strong": "tau_strong", "right_weight": "lambda1", "wrong_weight": "lambda2", "own_weight": "rc_weight",
    "expansion": "copies", "inter_weight": "beta", "intra_weight": "gamma", "eps": "gamma", "entropy": "sinkhorn_reg",
    "iterations": "sinkhorn_iterations", "cost_sharpening": "sharpen", "mean_covariance_ratio": "mean_weight",
}  # fmt: skip
"""Parameters of the second reference under the names that they have here."""
METHODS = {
    "la": "swap", "lr": "revision", "wttm+crd": "crd+wttm", "wkd_l+wkd_f": "wkd_f+wkd_l",
}  # fmt: skip
"""Methods of the second reference likewise."""
LEFT_OUT = {"fcfd", "kd++", "dkd++", "lg"}
"""Methods of the second reference that are not here."""
NOT_THERE = {"layer", "epsilon", "projector", "cost", "stages", "branch_weight", "cosine_decay_from_epoch", "source"}
"""Keys of the second reference that are no numbers of ours, or in epochs, which others of these tests check."""


def translated(method, layer):
    """The numbers of a layer of the second reference, under our keys."""
    numbers = {}
    for key, value in layer.items():
        if isinstance(value, dict):
            numbers |= {f"{key}.{name}": number for name, number in translated(key, value).items()}
        elif key not in NOT_THERE:
            numbers[RENAMED.get(key, key)] = value
    if method == "wkd_l":  # Whose weight is inside its loss here; cross-entropy on the true class beside it has 1.
        numbers = {**numbers, "gamma": numbers["kd_weight"], "kd_weight": 1.0}
    if method == "revision":  # Whose cross-entropy is inside its loss here.
        numbers["ce_weight"] = 0.0
    return numbers


@needs_reference
def test_values_of_the_second_reference():
    """Of every layer there, what a cell of its pair, or of a pair that it does not list, resolves to here."""
    content = yamlfile.read(FOLDER / "recipes2.yaml")
    checked = set()
    for (dataset, name, pair, kind), layer in layers({key: of for key, of in content.items() if key != "sources"}):
        method = METHODS.get(name, name)
        if name in LEFT_OUT or kind == "stand" or (pair and not {*pair.split("-")} <= catalog.networks().keys()):
            continue
        found = resolved(method, pair=pair or "resnet8-resnet14", dataset=dataset)
        wanted = translated(method, layer)
        assert {key: found[key].value for key in wanted} == wanted, (dataset, method, pair)
        sources = {value.source.partition(", of ")[0] for value in found.values()}
        assert layer["source"] in sources, (dataset, method, pair)
        checked.add((dataset, method, pair))
    assert len(checked) > 60


def test_shares_of_the_epochs_after_which_weights_fall():
    """150 of 240 on CIFAR-100; the first or epoch 30 of 100 on ImageNet. A share of 0 goes without saying."""
    assert (recipe("wkd_f")["schedule"], recipe("wkd_f")["decay_from"]) == ("cosine", 150 / 240)
    assert recipe("wkd_l")["gamma_decay_from"] == 150 / 240
    assert recipe("wkd_f+wkd_l")["wkd_f.decay_from"] == 150 / 240
    assert recipe("wkd_f", dataset="imagenet", pair=R50_MV1)["decay_from"] == 30 / 100
    assert "decay_from" not in recipe("wkd_f", dataset="imagenet", pair=R34_R18)
    assert recipe("wkd_l", dataset="imagenet", pair=R34_R18)["gamma_decay_from"] == 0
    assert recipe("norm")["schedule"] == "steps"
    assert not {"schedule", "decay_from"} & recipe("kd").keys()


def test_methods_whose_loss_has_its_own_cross_entropy_or_none_get_no_other():
    for method, entry in catalog.methods().items():
        if entry.cross_entropy != "beside":
            assert recipe(method)["ce_weight"] == 0, method


@pytest.mark.parametrize("method", [*catalog.methods(), "vanilla"])
def test_every_method_is_complete_on_cifar100(method):
    """For any pair, so that every other data set can inherit it; an example of one pair says so in its source."""
    default = PUBLISHED["cifar100"]["methods"][method]["default"]
    wanted = {"ce_weight"} if method == "vanilla" else {"ce_weight", "kd_weight", "warmup"}
    wanted |= set(catalog.methods()[method].parameters) if method != "vanilla" else set()
    assert wanted <= default.keys()
    assert default["source"]
    assert set(resolved(method, pair="resnet8-resnet14")) >= wanted


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


@pytest.mark.parametrize("dataset", [*(name for name in PUBLISHED if name != "sources"), "birds_of_ours"])
def test_every_method_has_a_recipe_for_every_data_set(dataset):
    for method in [*catalog.methods(), catalog.VANILLA]:
        for stand in (False, True):
            assert recipe(method, dataset=dataset, stand=stand, scale=2)


def test_every_source_is_listed():
    def sources(section):
        if isinstance(section, dict):
            for key, value in section.items():
                yield from [value] if key == "source" else sources(value)

    named = {re.sub(r"^inherited from [\w-]+: ", "", source).split(":")[0] for source in sources(PUBLISHED)}
    assert named - {"this project", "inherited from clkd without standardisation"} == set(PUBLISHED["sources"])


R34_R18, R50_MV1 = "imagenet_resnet34-imagenet_resnet18", "imagenet_resnet50-imagenet_mobilenetv1"


@pytest.mark.parametrize(("dataset", "row", "values"), [
    ("imagenet", (R34_R18, "kd", 1, False), {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}),
    ("imagenet", (R34_R18, "kd", 2, False), {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}),
    ("imagenet", (R34_R18, "kd", 1, True), {"temperature": 2.0, "ce_weight": 1.0, "kd_weight": 9.0}),
    ("imagenet", (R34_R18, "kd", 2, True), {"temperature": 2.0, "ce_weight": 1.0, "kd_weight": 9.0}),
    ("imagenet", (R50_MV1, "kd", 4, True), {"temperature": 2.0, "ce_weight": 0.5, "kd_weight": 9.0}),
    ("imagenet", (R34_R18, "dkd", 2, False), {"beta": 0.5, "temperature": 1.0, "warmup": 1}),
    ("imagenet", (R50_MV1, "dkd", 1, True), {"beta": 2.0, "temperature": 2.0, "kd_weight": 9.0}),
    ("imagenet", (R34_R18, "nkd", 1, False), {"gamma": 1.5, "temperature": 1.0, "warmup": 1}),
    ("imagenet", (R34_R18, "nkd", 2, False), {"gamma": 0.5, "temperature": 1.0, "warmup": 1}),
    ("imagenet", (R50_MV1, "nkd", 4, False), {"gamma": 2.0, "temperature": 1.0, "warmup": 1}),
    ("imagenet", (R50_MV1, "rld", 1, False), {"beta": 2.0, "temperature": 1.0, "alpha_temperature": 1.0, "warmup": 1}),
    ("imagenet", (R50_MV1, "mlkd", 1, False), {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}),
    ("imagenet", (R34_R18, "ctkd", 1, False), {"curriculum": 5, "ce_weight": 1.0, "kd_weight": 1.0}),
    ("imagenet", (R50_MV1, "ofd", None, None), {"kd_weight": 0.0001}),
    ("imagenet", (R50_MV1, "reviewkd", None, None), {"kd_weight": 8.0, "student_preact": True, "warmup": 1}),
    ("imagenet", (R34_R18, "reviewkd", None, None), {"kd_weight": 1.0, "student_preact": True, "mid_channels": 512}),
    ("cub200", ("vgg13-vgg8", "dkd", 4, False), {"beta": 6.0, "temperature": 4.0, "warmup": 20}),
    ("cub200", ("resnet32x4-mobilenetv2", "dkd", 1, False), {"beta": 8.0}),
    ("cub200", ("resnet32x4-mobilenetv2", "nkd", 1, False), {"gamma": 8.0, "temperature": 4.0}),
    ("cub200", ("vgg13-vgg8", "kd", 1, True), {"temperature": 2.0, "ce_weight": 1.0, "kd_weight": 9.0}),
    ("tiny_imagenet", ("resnet18-mobilenetv2", "kd", 1, False), {"temperature": 4.0, "kd_weight": 0.9}),
    ("cifar100", ("resnet32x4-mobilenetv2", "dkd", 1, False), {"beta": 6.0}),
    ("cifar100", ("resnet32x4-mobilenetv2", "dkd", 4, False), {"beta": 8.0}),
    ("cifar100", ("wrn_40_2-vgg8", "dkd", 4, False), {"beta": 8.0}),
    ("cifar100", ("vgg13-vgg8", "rld", 2, True), {"temperature": 5.0, "alpha_temperature": 5.0, "kd_weight": 6.0}),
    ("cifar100", ("vgg13-mobilenetv2", "rld", 4, True), {"temperature": 2.0, "kd_weight": 9.0}),
])  # fmt: skip
def test_published_values(dataset, row, values):
    pair, method, scale, stand = row
    found = resolved(method, dataset=dataset, pair=pair, scale=scale, stand=stand)
    assert {key: found[key].value for key in values} == values
    assert not any("inherited" in found[key].source for key in values)


class TestDataSetsThatAreNotListed:
    def test_take_everything_from_cifar100_and_say_so(self):
        for method, scale, stand in (("dkd", 2, True), ("kd", 1, False), ("crd+kd", 4, True)):
            known, found = (resolved(method, dataset=name, scale=scale, stand=stand) for name in ("cifar100", "ours"))
            assert {key: value.value for key, value in found.items()} == {k: v.value for k, v in known.items()}
            for key, value in found.items():
                assert "inherited from cifar100: " in value.source
                assert value.source.endswith(known[key].source.rpartition(": ")[2])

    def test_are_as_if_listed_with_nothing_of_their_own(self):
        cell = Cell(PAIR, "dkd", 0, 2, True)
        options = {"dataset": "ours", "overrides": {}, "stand_recipe": "paper"}
        listed = {**PUBLISHED, "ours": {"inherits": "cifar100"}}
        assert resolve(cell, published=PUBLISHED, **options) == resolve(cell, published=listed, **options)

    def test_may_have_the_name_of_another_part_of_the_file(self):
        assert recipe("kd", dataset="sources") == recipe("kd")


REGIONS = {
    "cifar100": {
        "scales": {"complementary_weight": 2.0, "decoupling": "sdd", "source": "s"},
        "methods": {
            "kd": {
                "default": {"temperature": 1, "ce_weight": 1, "kd_weight": 1, "warmup": 0, "source": "plain"},
                "scales": {"temperature": 2, "source": "regions"},
                "stand": {"kd_weight": 3, "source": "stand"},
                "pairs": {
                    PAIR: {"scales": {"warmup": 4, "source": "pair"}, "stand": {"temperature": 5, "source": "pair"}},
                },
            },
        },
    },
}


class TestValuesForRegions:
    def values(self, scale, stand, pair=PAIR, **options):
        defaults = {"published": REGIONS, "dataset": "cifar100", "overrides": {}, "stand_recipe": "paper"}
        found = resolve(Cell(pair, "kd", 0, scale, stand), **{**defaults, **options})
        return tuple(found[key].value for key in ("temperature", "kd_weight", "warmup"))

    def test_are_well_formed(self):
        check_published(REGIONS)

    def test_reach_no_plain_row(self):
        assert self.values(1, False) == (1, 1, 0)
        assert self.values("L1", False) == (1, 1, 0)

    def test_reach_every_set_of_regions_the_pairs_own_last(self):
        assert {self.values(scale, False) for scale in (2, 4, "L2", "L1_4")} == {(2, 1, 4)}
        assert self.values(2, False, pair="a-b") == (2, 1, 0)

    def test_stand_beats_them(self):
        assert self.values(2, True) == (5, 3, 4)
        assert self.values(2, True, pair="a-b") == (2, 3, 0)

    def test_matched_stand_leaves_them(self):
        assert self.values(2, True, stand_recipe="matched") == (2, 1, 4)

    def test_params_beat_them(self):
        assert self.values(2, False, overrides={"kd": {"temperature": 9}}) == (9, 1, 4)


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
    ({"methods": {"at": {"scales": {"p": 2, "source": "a"}}}}, "x.methods.at.scales: unknown parameter"),
    ({"methods": {"kd": {"scales": {"temperature": 2}}}}, "x.methods.kd.scales: needs a source"),
    ({"methods": {"kd": {"pairs": {PAIR: {"scales": {"beta": 2, "source": "a"}}}}}}, "scales.beta: unknown parameter"),
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


def test_without_recipes_of_cifar100_nothing_is_inherited():
    with pytest.raises(UserError, match=r"ours\.methods\.kd gives no ce_weight"):
        resolve(Cell(PAIR, "kd", 0, 1, False), dataset="ours", published={}, overrides={}, stand_recipe="paper")
