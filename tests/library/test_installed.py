"""What `pip install kdcore` brings suffices for docs/library.md: nothing of the pipeline is imported, or missing."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kdcore import networks
from tests.library.test_page import LOOP
from tests.project import ROOT, copy_of_project

PYPROJECT = (ROOT / "pyproject.toml").read_text()
ALONE = {"numpy", "pydantic", "pyyaml", "safetensors", "torch"}
GUARD = """
import sys
from importlib.machinery import PathFinder

class Guard:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Guard()
"""
OF_TORCHVISION = ["kdcore.networks.imagenet_mobilenetv2", "kdcore.networks.imagenet_resnet"]
"""Networks whose layers are torchvision's."""


def listed(key):
    """The packages of a list of pyproject.toml, with their versions."""
    lines = re.search(rf"^{key} = \[\n(.*?)^\]", PYPROJECT, re.DOTALL | re.MULTILINE)[1]
    return [Requirement(one) for one in re.findall(r'^  "([^"]+)"', lines, re.MULTILINE)]


def brought(names):
    """These packages, and all that they require."""
    found, waiting = set(), [*names]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            required = map(Requirement, metadata.requires(name) or ())
            waiting += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def guarded(folder, code, returncode=0):
    """Run code where only what the library brings can be imported; the project itself is read from its checkout."""
    allowed = {*brought(ALONE), "kdcore"}
    owners = metadata.packages_distributions().items()
    blocked = {name for name, of in owners if not {canonicalize_name(one) for one in of} & allowed}
    assert {"dvc", "dask", "pandas", "scipy", "sklearn", "PIL", "rich", "torchvision", "timm"} <= blocked
    (folder / "guarded.py").write_text(f"BLOCKED = {blocked!r}\n{GUARD}\nsys.path.insert(0, {str(ROOT)!r})\n{code}")
    command = [sys.executable, "guarded.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_library_requires_five_packages():
    """And the pipeline none of them twice."""
    assert {one.name for one in listed("dependencies")} == ALONE
    assert not ALONE & {one.name for one in listed("pipeline")}


def test_nothing_else_is_needed(tmp_path):
    """For the page's loop, the list of methods, and every module of the library: except the table of networks, which
    rich draws for stages/networks.py, and networks that torchvision defines.
    """
    torch.save(networks.create("resnet56", 100).state_dict(), tmp_path / "teacher.pth")
    listing = (
        "import runpy, sys\nsys.argv = ['methods', 'dkd']\nrunpy.run_module('kdcore.methods', run_name='__main__')\n"
    )
    files = [path for room in ("library", "methods", "networks", "") for path in ROOT.glob(f"kdcore/{room}/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.stem[:2] != "__"}
    names -= {"kdcore.networks.listing", *OF_TORCHVISION}
    modules = f"import importlib\nfor name in {sorted(names)!r}:\n    importlib.import_module(name)\n"
    said = guarded(tmp_path, f"{LOOP}{modules}{listing}")
    assert "epoch 2: loss " in said
    assert "beta = 8.0 (>= 0)" in said


def test_stages_say_what_they_need(tmp_path):
    said = guarded(tmp_path, "import runpy\nrunpy.run_module('stages.plan', run_name='__main__')\n", returncode=2)
    assert said == ("error: kdcore is here as a library alone; run pip install -e '.[pipeline]', or make setup\n")


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path):
    """Every module, the recipes and what reports are made of; and it requires what pyproject.toml says."""
    project = tmp_path / "project"
    copy_of_project(project)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(project)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("kdcore-*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        about = next(name for name in wheel.namelist() if name.endswith("METADATA"))
        required = re.findall(r"^Requires-Dist: ([\w.-]+)[^;\n]*$", wheel.read(about).decode(), re.MULTILINE)
        assert wheel.read("kdcore/recipes.yaml") == (ROOT / "data/recipes.yaml").read_bytes()
    shutil.rmtree(project / "build", ignore_errors=True)
    files = [path for path in (project / "kdcore").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(project).as_posix() for path in files}
    assert {canonicalize_name(name) for name in required} == ALONE
