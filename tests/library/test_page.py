"""docs/library.md, word by word: its code runs, and its table of what methods need is what they need."""

import os
import re
import subprocess
import sys

import pytest
import torch

import kdcore
from kdcore import catalog, networks
from tests.library.needs import needs
from tests.project import ROOT

PAGE = (ROOT / "docs/library.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LOOP = BLOCKS[0]


@pytest.fixture
def teacher_file(tmp_path):
    """The checkpoint that the page's loop reads."""
    torch.manual_seed(0)
    torch.save(networks.create("resnet56", 100).state_dict(), tmp_path / "teacher.pth")
    return tmp_path


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_its_code_runs(teacher_file, monkeypatch, capsys, number):
    monkeypatch.chdir(teacher_file)
    torch.manual_seed(0)
    exec(compile(BLOCKS[number], f"docs/library.md, block {number}", "exec"), {})
    said = capsys.readouterr().out
    if BLOCKS[number] == LOOP:
        assert re.findall(r"epoch (\d): loss [\d.]+\n", said) == ["1", "2"]
    if "timm" in BLOCKS[number]:
        assert "top1" in said


def test_the_loop_is_short():
    assert "kdcore.DistillationLoss(" in LOOP
    assert len(LOOP.splitlines()) <= 25


def test_its_table_of_needs():
    """Each row's methods are those that need what it says; no method needs something that no row says."""
    table = PAGE.split("## Methods that need more")[1].split("\n## ")[0]
    said = {}
    for given, _, listed in re.findall(r"^\| (.*?) \| (.*?) \| ([\w, ]+) \|$", table, re.MULTILINE)[1:]:
        words = re.findall(r"`([\w.]+)=?`", given) or ["views"]
        for name in listed.split(", "):
            said.setdefault(name, set()).update(words)
    found = {name: needs(name) for name in catalog.methods()}
    assert said == {name: needed for name, needed in found.items() if needed}


def test_the_names_of_the_package():
    assert set(kdcore.__all__) <= set(dir(kdcore))
    assert kdcore.kd is kdcore.methods.kd
    for name in kdcore.__all__:
        assert getattr(kdcore, name).__doc__
    for name in ("contract", "nothing", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"module 'kdcore' has no attribute '{name}'"):
            getattr(kdcore, name)


def test_an_objective_is_imported_in_little_time():
    """Beside what torch itself takes; and the package alone imports nothing."""
    code = (
        "import sys, time, kdcore\n"
        "assert not {'torch', 'yaml', 'numpy'} & {*sys.modules}\n"
        "import torch\n"
        "begin = time.process_time()\n"
        "loss = kdcore.DistillationLoss('kd', recipe={'temperature': 4, 'ce_weight': 1, 'kd_weight': 1, 'warmup': 0})\n"
        "print(time.process_time() - begin)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    taken = float(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))
    assert taken <= 0.4  # 0.2 on a machine that is idle
