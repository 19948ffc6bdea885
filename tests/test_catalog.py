"""What a method's file must be, and the names that the matrix knows."""

import pytest

from kdcore import catalog
from kdcore.system.errors import UserError

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
    text = LOGIT + "def loss(student, teacher, *, temperature, eps=1e-7, standardize=False): ...\n"
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
