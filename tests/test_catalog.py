"""What a method's file must be, and the names that the matrix knows."""

import ast
import re
import shutil
import sys

import pytest
import yaml

from kdcore import catalog
from kdcore.matrix import params
from kdcore.matrix.cards import resolve_recipes
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from stages import plan, run
from tests.project import PARAMS, TRAINED, copy_lists

LOSS = "def loss(student, teacher, target=None, *, temperature): ...\n"
LOGIT = 'KIND = "logit"\nPARAMETERS = {"temperature": "> 0"}\n'
FEATURE = 'KIND = "feature"\nPARAMETERS = {"temperature": "> 0"}\n'
DISTILL = "def loss(a, b): ...\ndef distill(student, teacher, *, temperature): ...\n"
CLASS = "class Adapter:\n    def __init__(self, setting, *, temperature): ...\n"
ADAPTER = "def loss(a, b): ...\n" + CLASS


def entry(folder, text, name="new"):
    path = folder / f"{name}.py"
    path.write_text(text)
    return catalog._method(path)


@pytest.mark.parametrize("text", [LOGIT + LOSS, FEATURE + DISTILL, FEATURE + ADAPTER, LOGIT + LOSS + CLASS])
def test_complete_files(tmp_path, text):
    found = entry(tmp_path, '"""New: who,\nwhere.\n\nMore."""\n' + text)
    assert found.parameters == {"temperature": "> 0"}
    assert found.title == "New: who, where."
    assert (found.across, found.views, found.decouplings) == ("samples", ("weak",), ("sdd",))


def test_keywords_with_a_default_need_not_be_parameters(tmp_path):
    text = LOGIT + "def loss(student, teacher, target, *, temperature, eps=1e-7, standardize=False): ...\n"
    assert entry(tmp_path, text).parameters == {"temperature": "> 0"}


@pytest.mark.parametrize(("text", "message"), [
    (LOSS, "a method needs KIND, one of logit, feature, and PARAMETERS"),
    (LOGIT.replace("logit", "logits") + LOSS, "a method needs KIND"),
    (LOGIT.replace("> 0", "> 1") + LOSS, "PARAMETERS['temperature'] is '> 1'. Allowed"),
    (LOGIT + 'ACROSS = "batches"\n' + LOSS, "ACROSS is 'batches'. Allowed: ['samples', 'batch']"),
    (FEATURE + 'VIEWS = ["weak", "strong"]\n' + DISTILL, "feature methods have none"),
    (LOGIT, "a logit method needs a function loss; see kdcore/methods/contract.py"),
    (FEATURE + LOSS, "a feature method needs a function distill (or a class Adapter)"),
    (FEATURE + CLASS, "a feature method needs a function loss"),
    (LOGIT + LOSS.replace("temperature", "t"), "arguments of loss must be the same, but t, temperature is in"),
    (FEATURE + DISTILL.replace("temperature", "t"), "the keyword arguments of distill must be the same"),
    (FEATURE + ADAPTER.replace("temperature", "t"), "the keyword arguments of __init__ must be the same"),
    (FEATURE + "def loss(a, b): ...\nclass Adapter:\n    pass\n", "the keyword arguments of Adapter must be the same"),
    (LOGIT.replace("temperature", "warmup") + LOSS, "the name warmup means something else"),
    (LOGIT.replace("temperature", "decoupling") + LOSS, "the name decoupling means something else"),
    (LOGIT + LOSS.replace(", target=None", ""), "loss must take 3 positional arguments, used or not"),
    (LOGIT + LOSS.replace("target=None", "target, more"), "loss must take 3 positional arguments"),
    (LOGIT + 'VIEWS = ["weak", "strong"]\n' + LOSS, "loss must take 5 positional arguments"),
    (LOGIT + 'ACROSS = "batch"\n' + LOSS + CLASS, "an Adapter goes with a logit loss of single samples"),
    (LOGIT + LOSS.replace("*,", "*, standardize,") + CLASS, "an Adapter goes with a logit loss of single samples"),
    (LOGIT + "def loss(:\n", "new.py, line 3: invalid syntax"),
    ("KIND = kind()\n", "line 1: KIND must be a literal"),
])  # fmt: skip
def test_incomplete_files(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        entry(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["lr", "ce", "loss", "vanilla"])
def test_names_of_columns_are_taken(tmp_path, name):
    with pytest.raises(UserError, match=f"the name {name} means something else"):
        entry(tmp_path, LOGIT + LOSS, name)


def test_sums():
    assert [found.name for found in catalog.terms("at+crd+kd")] == ["at", "crd", "kd"]
    assert catalog.terms("vanilla") == []
    kinds = {"kd": "logit", "at": "feature", "crd+kd": "logit", "at+sp": "feature", "vanilla": "feature"}
    assert {name: catalog.kind(name) for name in kinds} == kinds


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the catalog with a network that has no maps before a ReLU, and one with the logits and pooled vector
    alone.
    """
    for name in ("methods", "networks"):
        shutil.copytree(catalog.PACKAGE / name, tmp_path / name)
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path)
    (tmp_path / "networks/flat.py").write_text('NETWORKS = {"flat": {}}\nLACKS = ["preacts"]\n')
    parts = '["stages", "preacts", "final_map", "classifier"]'
    (tmp_path / "networks/bare.py").write_text(f'NETWORKS = {{"bare": {{}}}}\nLACKS = {parts}\n')
    for known in (catalog.methods, catalog.networks):
        known.cache_clear()
    yield tmp_path
    for known in (catalog.methods, catalog.networks):
        known.cache_clear()


@pytest.mark.parametrize("size", ["0", "-32", "224.0", '"224"', "True"])
def test_a_wrong_image_size(copied, size):
    (copied / "networks/flat.py").write_text(f'NETWORKS = {{"flat": {{}}}}\nIMAGE_SIZE = {size}\n')
    with pytest.raises(UserError, match=r"flat\.py: IMAGE_SIZE is .*\. Allowed: whole pixels above 0"):
        catalog.networks()


@pytest.mark.parametrize(("method", "regions", "needed"), [
    ("ofd", False, "ofd needs feature maps before their ReLU, which the student's network bare does not have"),
    ("at+kd", False, "at needs feature maps of stages, which the student's network bare does not have"),
    ("simkd", False, "simkd needs a final feature map, which the student's network bare does not have"),
    ("crd+kd", True, "scales above 1 need a final feature map, which the student's network bare does not have"),
])  # fmt: skip
def test_a_network_that_lacks_what_a_method_needs(copied, method, regions, needed):
    with pytest.raises(ValueError, match=f"^{re.escape(needed)}$"):
        catalog.check_needs("resnet20", "bare", method, regions=regions)
    with pytest.raises(ValueError, match="which the teacher's network bare does not have"):
        catalog.check_needs("bare", "resnet20", method, regions=regions)
    catalog.check_needs("resnet20", "resnet8", method, regions=regions)


@pytest.mark.parametrize("method", ["vanilla", "kd", "dkd", "pkt", "rkd", "cc", "crd+kd"])
def test_the_logits_and_the_pooled_vector_need_not_be_named(copied, method):
    catalog.check_needs("bare", "bare", method, regions=False)


NEEDED_BY = {"stages": "stages", "preacts": "preacts", "teacher_norms": "preacts", "final_map": "final_map",
             "classifiers": "classifier"}  # fmt: skip


@pytest.mark.parametrize("name", list(catalog.methods()))
def test_a_method_names_the_parts_that_its_file_reads(name):
    """As far as a look at the attributes tells: `step.student.stages` is one of them, `pooled` is none of them."""
    tree = ast.parse((catalog.PACKAGE / f"methods/{name}.py").read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    entry = catalog.methods()[name]
    needed = {part.rpartition(".")[2] for part in entry.needs}
    assert {NEEDED_BY[attribute] for attribute in read & NEEDED_BY.keys()} <= needed


def test_a_part_may_be_needed_of_one_network(copied):
    """OFA's heads stand on the student's stages; its teacher may be any network."""
    catalog.check_needs("bare", "resnet8", "ofa_stages", regions=False)
    with pytest.raises(ValueError, match="ofa_stages needs feature maps of stages, which the student's network bare"):
        catalog.check_needs("resnet20", "bare", "ofa_stages", regions=False)


MATRIX = {"methods": ["kd"], "scales": [1, 2], "baselines": ["vanilla", "at", "ofd"], "seeds": [0, 1],
          "pairs": ["resnet20-flat", "resnet20-resnet8", "of_mine-bare"],
          "teachers": {"resnet20": TRAINED, "of_mine": {"network": "flat", **TRAINED}}}  # fmt: skip


def test_the_plan_refuses_such_pairs(copied, tmp_path, monkeypatch, capsys):
    content = {**yamlfile.read(PARAMS), **MATRIX}
    copy_lists(tmp_path)
    monkeypatch.chdir(tmp_path)
    yamlfile.write(tmp_path / "params.yaml", content)
    problems = [
        "pair of_mine-bare, method kd: scales above 1 need a final feature map, which the student's network bare",
        "pair resnet20-flat, method ofd: ofd needs feature maps before their ReLU, which the student's network flat",
        "pair of_mine-bare, method at: at needs feature maps of stages, which the student's network bare",
        "pair of_mine-bare, method ofd: ofd needs feature maps before their ReLU, which the teacher's network flat",
    ]
    for arguments in (["--check", "params.yaml"], []):
        monkeypatch.setattr(sys, "argv", ["stages.plan", *arguments])
        with pytest.raises(SystemExit) as ended:
            run(plan.main)
        said = capsys.readouterr().err.removeprefix("error: ").splitlines()
        assert ended.value.code == 2
        for line, problem in zip(said, problems, strict=True):
            assert line.startswith(f"params.yaml: {problem} does not have; to leave these cells out, add 'exclude: [")
        assert said[1].endswith("'exclude: [{pairs: [resnet20-flat], methods: [ofd]}]'")
        assert said[0].endswith("'exclude: [{pairs: [of_mine-bare], methods: [kd], scales: [2]}]'")
        assert not (tmp_path / "cards").exists()
    advised = [yaml.safe_load(line.rpartition(" add '")[2].rstrip("'"))["exclude"][0] for line in said]
    yamlfile.write(tmp_path / "params.yaml", {**content, "exclude": advised})
    matrix = params.load("params.yaml")
    resolved = resolve_recipes(matrix, yamlfile.read("data/recipes.yaml"))
    assert {(cell.pair, cell.method, cell.scale) for cell in matrix.points()} - {
        (cell.pair, cell.method, cell.scale) for cell in resolved
    } == {
        ("resnet20-flat", "ofd", None), ("of_mine-bare", "kd", 2), ("of_mine-bare", "at", None),
        ("of_mine-bare", "ofd", None),
    }  # fmt: skip
