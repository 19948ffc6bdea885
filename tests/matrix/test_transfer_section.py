"""Sections `transfer` and `targets`: what they may hold, what is refused, and what stands in cards."""

import pytest

from kdcore.matrix import params, protocols
from kdcore.matrix.cards import check_sources, make_cards
from kdcore.matrix.check import check
from kdcore.matrix.transfer_section import renamed
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from tests.project import PARAMS, ROOT

CONTENT = yamlfile.read(PARAMS)
RECIPES, TEACHERS = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
DIGITS = {"name": "digits", "source": "embedded", "image_size": 32, "train_per_class": 8}
PAIR = "resnet20-resnet8"


@pytest.fixture
def load(tmp_path):
    def load(**changes):
        yamlfile.write(tmp_path / "params.yaml", {**CONTENT, **changes})
        return params.load(tmp_path / "params.yaml")

    return load


def made(matrix):
    return make_cards(matrix, published_recipes=RECIPES, known_teachers=TEACHERS)


BAD = [
    ({"transfer": ["stl"]}, "transfer: 'stl': there is no such target. Did you mean stl10? It may be"),
    ({"transfer": ["stl10", "stl10"]}, "transfer: names stl10 more than once"),
    ({"transfer": "stl10"}, "transfer: 'stl10': must be a list; write transfer: [stl10]"),
    ({"transfer": ["digits"], "targets": {"digits": DIGITS}}, "is the data set that the networks are trained on"),
    ({"targets": {"A": DIGITS}}, "targets.A: 'A': must be of lower-case letters, digits and _"),
    ({"targets": {"stl10": "download"}}, "targets: stl10: 'download': must be keys and values"),
    ({"targets": {"mine": {"source": "folder:x"}}}, "targets: mine: image_size: is missing; give it a value"),
    ({"targets": {"mine": {"source": "x"}}}, "a data set of your own needs source folder:<path>"),
    ({"targets": {"d": {**DIGITS, "image_size": 20}}}, "targets: d: image_size: 20: Input should be 16 or 32"),
    ({"targets": {"stl10": {"side": 32}}}, "targets: stl10: side: unknown key"),
    ({"targets": {"stl10": {"image_size": 4}}}, "stl10: image_size: 4: must be a whole number from 8 to 1024"),
    ({"targets": {"stl10": {"image_size": True}}}, "stl10: image_size: True: must be a whole number"),
    ({"targets": {"stl10": {"validation": 0.1}}}, "stl10: validation: a target keeps no validation images"),
    ({"targets": {"stl10": {"protocol": "hskd"}}}, "protocol: 'hskd': there is no such protocol. Did you mean hsakd?"),
    ({"targets": {"stl10": {"protocol": "crd"}}}, "protocol: crd: its authors do not describe it"),
    ({"targets": {"stl10": {"protocol": "dkd"}}}, "protocol: dkd: its author says that norms are fixed"),
    ({"targets": {"stl10": {"protocol": []}}}, "protocol: []: must be a name, or a list of different ones"),
    ({"targets": {"stl10": {"protocol": ["dcd", "dcd"]}}}, "must be a name, or a list of different ones"),
    ({"targets": {"imagenet": {"source": "x"}}}, "imagenet: is decoded as it is needed, and a target is decoded once"),
    (
        {"targets": {"a": {"source": "folder:x", "image_size": 32, "augmentation": "random_resized_crop"}}},
        "a: is decoded as it is needed",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_values_are_explained(load, changes, message):
    with pytest.raises(UserError) as caught:
        load(**changes)
    assert message in str(caught.value)


def test_an_older_params_file_is_told_what_to_write(tmp_path):
    yamlfile.write(tmp_path / "old.yaml", {key: value for key, value in CONTENT.items() if key != "transfer"})
    with pytest.raises(
        UserError, match=r"old.yaml: transfer: is missing; add the line 'transfer: \[\]', which asks for none$"
    ):
        check(str(tmp_path / "old.yaml"), recipes=RECIPES, known_teachers=TEACHERS)


def test_nothing_stands_in_cards_without_targets(load):
    cards = made(load(targets={"digits_32": DIGITS}))
    assert not [name for name in cards if name.startswith(("target/", "transfer/"))]
    assert "transfer" not in cards["tables"]


def test_cards_of_a_target(load):
    plain, cards = made(load()), made(load(transfer=["digits_32"], targets={"digits_32": DIGITS}))
    new = {"target/digits_32", f"transfer/{PAIR}-digits_32", "transfer/wrn_16_2-wrn_16_1-digits_32"}
    assert set(cards) - set(plain) == new
    assert all(cards[name] == plain[name] for name in plain if name != "tables")
    assert {**cards["target/digits_32"], "code": None} == {**DIGITS, "code": None}
    card = cards[f"transfer/{PAIR}-digits_32"]
    assert card["cells"] == cards[f"evaluate/{PAIR}"]["cells"]
    assert (card["target"], card["data"], card["image_size"], card["threads"]) == ("digits_32", "digits", 32, 1)
    assert card["protocols"]["default"]["weight_decay"] == 0
    assert card["protocols"]["default"]["normalised_by"] == "network"


def test_known_targets_need_no_section(load):
    target = load(transfer=["stl10", "tiny_imagenet"]).target("stl10")
    assert (target.data.source, target.image_size, target.protocols) == ("download", None, ["default"])


def test_a_target_that_is_not_here_is_refused(load):
    matrix = load(transfer=["stl10"], targets={"stl10": {"source": "no/such"}})
    with pytest.raises(
        UserError, match=r"targets\.stl10\.source: there is no no/such\. Allowed: download, or the path"
    ):
        made(matrix)


def test_a_source_that_a_stage_would_delete_is_refused(load):
    matrix = load(transfer=["mine"], targets={"mine": {"source": "folder:data/mine", "image_size": 32}})
    with pytest.raises(UserError, match=r"targets\.mine\.source: data/mine overlaps with data/mine"):
        check_sources(matrix)


def test_a_message_about_the_data_of_a_target_names_its_keys():
    said = renamed("data.source data.tar: set data.subset: true, or remove my/data.source", "birds")
    assert said == "targets.birds.source data.tar: set targets.birds.subset: true, or remove my/data.source"


def test_the_normalisation_of_a_protocol():
    """That of published code for its data sets, the target's own for others, and that of params.yaml before both."""
    of_stl10 = protocols.card("hsakd", "stl10", given=None)
    assert (of_stl10["mean"], of_stl10["std"]) == ([0.5] * 3, [0.5] * 3)
    assert protocols.card("hsakd", "mine", given=None)["normalised_by"] == "target"
    for name in protocols.PROTOCOLS:
        assert protocols.card(name, "stl10", given=([0.1] * 3, [0.2] * 3))["std"] == [0.2] * 3


def test_a_protocol_never_says_what_it_does_not_know():
    assert not set(protocols.PROTOCOLS) & set(protocols.UNDESCRIBED)
    for name in protocols.UNDESCRIBED:
        with pytest.raises(ValueError, match=name):
            protocols.check_name(name)


def test_the_learning_rate_of_slow_networks(load):
    matrix = load(
        pairs=["resnet20-shufflenetv2"],
        transfer=["stl10"],
        targets={"stl10": {"protocol": "dcd"}},
    )
    card = made(matrix)["transfer/resnet20-shufflenetv2-stl10"]
    assert card["slow"] == ["student"]
    assert (card["protocols"]["dcd"]["lr"], card["protocols"]["dcd"]["slow_lr"]) == (0.05, 0.01)
