"""Section `networks`: what is refused, what cards hold, and a matrix of all four kinds, from cards to figures."""

import re
from pathlib import Path

import pytest
import torch

from kdcore import checkpoints
from kdcore.data.sources import digits
from kdcore.matrix import networks_section, params
from kdcore.matrix.cards import make_cards, resolve_recipes
from kdcore.matrix.code import Code
from kdcore.matrix.fingerprint import ROOT
from kdcore.results import evaluation, tables
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import loop, run_folder, single
from stages import networks as listing_stage
from tests.project import PARAMS, SHORT, TINY, TRAINED

CPU = torch.device("cpu")
RECIPES, TEACHERS = (yamlfile.read(ROOT / f"data/{name}.yaml") for name in ("recipes", "teachers"))
CONTENT = {**yamlfile.read(PARAMS), **TINY, "exclude": []}
DEIT = {
    "timm": "deit_tiny_patch16_224",
    "arguments": {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2},
}
THIN = {"torchvision": "resnet18", "stem": "small"}
FACTORY = """
from torch import nn

def tiny(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(12, num_classes))
"""
KINDS = {
    "thin": THIN,
    "deit": DEIT,
    "own": {"factory": "own_networks_of_a_test.tiny", "stages": ["0", "2"]},
    "reduced": {"zoo": "resnet8", "image_size": 12},
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks_of_a_test.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def matrix(**changes):
    return params.Params.model_validate({**CONTENT, **changes})


def cards(**changes):
    return make_cards(matrix(**changes), published_recipes=RECIPES, known_teachers=TEACHERS)


def problems(tmp_path, **changes):
    yamlfile.write(tmp_path / "p.yaml", {**CONTENT, **changes})
    with pytest.raises(UserError) as error:
        resolve_recipes(params.load(tmp_path / "p.yaml"), RECIPES, "p.yaml")
    return str(error.value)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"resnet8": THIN}, "networks.resnet8: resnet8: is a network of the zoo; take another name"),
        ({"Thin": THIN}, "networks.Thin: 'Thin' must be lower-case letters, digits and _, a letter first"),
        (
            {"x": {"timm": "a", "zoo": "resnet8"}},
            "networks.x: must have exactly one of timm, torchvision, factory, zoo",
        ),
        ({"x": {"image_size": 32}}, "networks.x: must have exactly one of .*; it has none"),
        ({"x": {"zoo": "resnet9"}}, "networks.x.zoo: unknown network of the zoo 'resnet9'. Did you mean resnet8"),
        (
            {"x": {"zoo": "resnet8", "stages": ["a", "b"]}},
            "networks.x: stages: is for timm and torchvision and factory",
        ),
        ({"x": {**DEIT, "stem": "small"}}, "networks.x: stem: is for torchvision and zoo, not for timm; remove it"),
        ({"x": {"factory": "a.b", "pretrained": True}}, "networks.x: pretrained: is for timm and torchvision, not for"),
        ({"x": {"factory": "b"}}, "networks.x.factory: 'b': "),
        (
            {"x": {**THIN, "arguments": {"num_classes": 3}}},
            "arguments: num_classes: cannot be given here, for it is the",
        ),
        ({"x": {**THIN, "image_size": 2}}, "networks.x.image_size: 2: "),
        ({"x": {**THIN, "drop_path": 1}}, "networks.x.drop_path: 1: "),
        ({"x": {**THIN, "size": 2}}, "networks.x.size: unknown key"),
        ({"x": "resnet18"}, "networks.x: 'resnet18': must be keys and values"),
        (["x"], "networks: .*: must be keys and values"),
        (
            {"x": {"torchvision": "resnet81"}},
            "p.yaml: networks.x.torchvision: unknown network 'resnet81'. Did you mean r",
        ),
        (
            {"x": {"timm": "deit_tiny_patch16_224"}},
            "p.yaml: networks.x.timm: deit_tiny.* refuses images of 16 x 16 pix",
        ),
    ],
)
def test_refused(tmp_path, networks, message):
    assert re.search(message, problems(tmp_path, networks=networks))


def test_all_wrong_networks_are_named_at_once(tmp_path):
    said = problems(tmp_path, networks={"x": {"torchvision": "resnet81"}, "y": {**THIN, "classifier": "f"}})
    assert [line.split(": ")[1] for line in said.splitlines()] == ["networks.x.torchvision", "networks.y.classifier"]


def test_a_name_is_known_in_all_sections_and_nowhere_else(tmp_path):
    named = {"networks": {"thin": THIN}, "pairs": ["resnet14-thin"], "baselines": ["vanilla"]}
    named |= {"methods_config": {"kd": {"pairs": {"resnet14-thin": {"temperature": 3}}}}}
    named |= {"exclude": [{"students": ["thin"], "pairs": ["resnet14-thin"], "methods": ["dkd"]}]}
    made = cards(**named)
    assert made["train/resnet14-thin-kd-1-False-base-0"]["recipe"]["temperature"] == 3
    assert "unknown network 'thin'" in problems(tmp_path, pairs=["resnet14-thin"])
    assert "unknown network 'thinn'. Did you mean thin" in problems(
        tmp_path, **{**named, "pairs": ["resnet14-thinn"], "exclude": [], "methods_config": {}}
    )


def test_only_cards_of_what_uses_a_network_change():
    before, after = cards(), cards(networks={"thin": THIN, "deit": DEIT})
    assert {name for name in before if before[name] != after.get(name)} == {"tables"}
    assert "networks" not in str(before)
    assert before.keys() == after.keys()


def test_what_cards_hold():
    teachers = {"mine": {**TRAINED, "network": "thin"}, "resnet14": TRAINED}
    made = cards(
        networks={"thin": THIN, "deit": DEIT}, teachers=teachers, pairs=["mine-resnet8", "resnet14-deit"], scales=[1]
    )
    cell, other = made["train/mine-resnet8-kd-1-False-base-0"], made["train/resnet14-deit-kd-1-False-base-0"]
    assert list(cell["networks"]) == list(made["teacher/mine"]["networks"]) == ["thin"]
    assert list(made["evaluate/mine-resnet8"]["networks"]) == ["thin"]
    assert list(other["networks"]) == list(made["evaluate/resnet14-deit"]["networks"]) == ["deit"]
    assert "networks" not in made["teacher/resnet14"]
    assert "networks" not in made["baseline/mine-resnet8-vanilla-base-0"]
    thin = cell["networks"]["thin"]
    assert {**thin, "package": ""} == {
        **THIN,
        "package": "",
        "family": "torchvision.models.resnet",
        "stages": ["relu", "layer1", "layer2", "layer3", "layer4"],
        "pooled": "fc",
        "classifier": "fc",
        "final_map": "layer4",
    }
    assert thin["package"].startswith("torchvision 0.")
    assert cell["code"]["teacher"] != cell["code"]["student"]
    assert Code(ROOT, cell["networks"]).training(cell["student"], cell["teacher"], "kd") == cell["code"]
    assert tables._kind("mine-resnet8", made["tables"]) == tables.DISTINCT
    assert tables._kind("resnet14-deit", made["tables"]) == tables.DISTINCT


def test_a_resized_network_of_the_zoo_is_of_its_family_and_may_be_published():
    networks = {"small56": {"zoo": "resnet56", "image_size": 32}}
    data = {"name": "cifar100", "source": "download"}
    made = cards(
        networks=networks, data=data, pairs=["small56-resnet20"], teachers={"small56": {"source": "published"}}
    )
    assert made["teacher/small56"]["sources"]
    assert tables._kind("small56-resnet20", made["tables"]) == tables.IDENTICAL


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scales": [1, 2]},
            "pair resnet14-deit, method kd: scales above 1 need a final feature map, which the student's",
        ),
        (
            {"baselines": ["ofd"]},
            "method ofd: ofd needs feature maps before their ReLU, which the student's network deit",
        ),
        ({"baselines": ["srrl"]}, "srrl needs a final feature map, which the student's network deit does not have"),
        (
            {"baselines": ["kdsvd"], "networks": {"deit": {**DEIT, "stages": ["blocks.1", "blocks.3"]}}},
            "kdsvd needs 3 maps of stages at least, with the stem's, and the student's network deit has 2; name more "
            "of them in networks.deit.stages",
        ),
    ],
)
def test_what_a_network_lacks_is_refused_at_plan(tmp_path, changes, message):
    plain = {"scales": [1], "baselines": ["at"], "pairs": ["resnet14-deit"], "networks": {"deit": DEIT}}
    assert message in problems(tmp_path, **{**plain, **changes})
    cards(**plain)


@pytest.mark.parametrize(("method", "key"), [("wkd_l", "cost"), ("wkd_f+wkd_l", "wkd_l.cost")])
def test_what_a_value_needs_is_refused_at_plan(tmp_path, method, key):
    """A classifier of two heads gives no cost of classes; that of logits every network gives."""
    distilled = {"timm": "deit_tiny_distilled_patch16_224", "arguments": DEIT["arguments"]}
    plain = {"methods": [method], "scales": [1], "stand": [False], "baselines": ["vanilla"]}
    plain |= {"pairs": ["deit-resnet8"], "networks": {"deit": distilled}, "teachers": {"deit": TRAINED}}

    def costs(value):
        return {method: {"wkd_l": {"cost": value}} if "+" in method else {"cost": value}}

    assert (
        f"pair deit-resnet8, method {method}: {key}: classifier needs a linear classifier, which the teacher's network "
        f"deit does not have; set methods_config.{method}.pairs.deit-resnet8.{key} to another value (cka_map, "
        "cka_logits)"
    ) in problems(tmp_path, **plain, methods_config=costs("classifier"))
    cards(**plain, methods_config=costs("cka_logits"))


def test_a_file_that_dvc_does_not_compare_is_named(own, capsys):
    made = matrix(networks={"own": KINDS["own"], "thin": THIN})
    for listed, said in ((["kdcore"], True), (["kdcore", "own_networks_of_a_test.py"], False), ([{".": {}}], False)):
        yamlfile.write(Path("dvc.yaml"), {"stages": {"plan": {"deps": listed}}})
        networks_section.warn_of_files(made)
        warning = capsys.readouterr().err
        named = "warning: params.yaml: networks.own: DVC does not compare own_networks_of_a_test.py, so nothing is "
        assert warning.startswith(named) is said
        assert bool(warning) is said


@pytest.mark.slow
def test_from_cards_to_figures(own):
    """Every kind is a teacher and a student of a cell; KD, DIST and AT train an epoch, and the pair is evaluated."""
    settings = {**SHORT, "epochs": 1}
    pairs = ["thin-deit", "deit-own", "own-reduced", "reduced-thin"]
    made = cards(
        networks=KINDS,
        pairs=pairs,
        methods=["kd", "dist"],
        scales=[1],
        baselines=["at"],
        teachers={name: {"source": "train", "train": settings} for name in KINDS},
        train={**CONTENT["train"], **settings},
    )
    dataset = digits.fetch(source="embedded", image_size=16, train_per_class=2)
    weights = {}
    for name in KINDS:
        card = made[f"teacher/{name}"]
        run = loop.prepare(card, dataset, None, device=CPU)
        loop.train(run, None, dataset)
        folder = f"teachers/{name}"
        Path("teachers").mkdir(exist_ok=True)
        run_folder.write(Path(folder), run.student, run.history, card)
        weights[name] = Path(folder) / run_folder.WEIGHTS
    for pair in pairs:
        teacher = pair.split("-")[0]
        card = made[f"evaluate/{pair}"]
        network = checkpoints.restore(teacher, 10, weights[teacher], CPU, described=card["networks"])
        for cell in card["cells"]:
            of_cell = made[f"{'train' if 'scale' in cell else 'baseline'}/{cell['name']}"]
            run = loop.prepare(of_cell, dataset, network, device=CPU)
            loop.train(run, network, dataset)
            assert run.history[0][cell["method"]] > 0
            about = {"commit": "a", "device": "cpu", "threads": 1, "processes": 1, "computed_in": "float32"}
            folder = Path("runs") / pair / cell["name"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            run_folder.write(folder, run.student, run.history, {**of_cell, **about, "versions": {}})
        summary, _ = evaluation.evaluate_pair(card, dataset, weights[teacher], CPU)
        assert [cell["method"] for cell in summary["cells"]] == ["kd", "dist", "at"]
        assert all(cell["top1"] == run_top1(pair, cell) for cell in summary["cells"])
        assert summary["teacher"]["multiply_adds"] > 0


def run_top1(pair, cell):
    folder = Path("runs") / pair / cell["name"]
    history = run_folder.read_history(folder / run_folder.HISTORY, run_folder.read_meta(folder))
    return pytest.approx(history["test_top1"].iloc[-1], abs=1e-3)


def test_commands_know_the_names_of_a_params_file(own, capsys):
    yamlfile.write(Path("p.yaml"), {**CONTENT, "networks": {"thin": THIN, "reduced": KINDS["reduced"]}})
    listing_stage.main("--params", "p.yaml")
    shown = capsys.readouterr().out
    assert "thin" in shown
    assert "torchvision 0." in shown
    assert "wrn_16_2" not in shown
    with pytest.raises(UserError, match=r"unknown network 'thinn'\. Did you mean thin"):
        listing_stage.main("--params", "p.yaml", "thinn")
    assert set(single.described("p.yaml", "reduced")) == {"thin", "reduced"}
    assert single.described("p.yaml", "resnet8") == single.described(None, "resnet8") == {}
    with pytest.raises(UserError, match="unknown network 'thinn'"):
        single.described("p.yaml", "thinn")
