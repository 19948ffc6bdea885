"""The documentation does what it says."""

import re
import shutil
import subprocess
import sys

import pytest

from kdcore import catalog
from tests.conftest import ROOT
from tests.project import Project, copy_of_project

PAGE = (ROOT / "docs/adding-a-method.md").read_text()
BLOCK = re.compile(r"^`(?P<path>[\w/]+\.py)`:\n\n```python\n(?P<code>.*?)```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A copy of the project in which steps 1 to 3 of the page were taken."""
    folder = tmp_path_factory.mktemp("docs") / "project"
    copy_of_project(folder)
    for block in BLOCK.finditer(PAGE):
        assert not (folder / block["path"]).exists()
        (folder / block["path"]).write_text(block["code"])
    recipe = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1]
    recipes = folder / "data/recipes.yaml"
    recipes.write_text(recipes.read_text().replace("  methods:\n", f"  methods:\n{recipe}", 1))
    return Project(folder)


def test_a_method_is_its_file_and_its_test():
    assert [block["path"] for block in BLOCK.finditer(PAGE)] == ["kdcore/methods/pearson.py", "tests/test_pearson.py"]


def test_its_tests_and_style_pass(followed):
    followed.run(sys.executable, "-m", "pytest", "-q", "tests/test_pearson.py")
    files = ["kdcore/methods/pearson.py", "tests/test_pearson.py"]
    followed.run("ruff", "check", *files)
    followed.run("ruff", "format", "--check", *files)


def test_it_is_listed_with_its_values(followed):
    listed = followed.run(sys.executable, "-m", "stages.methods")
    assert "pearson" in listed
    assert "temperature = 1.0 (> 0)" in listed
    assert "arXiv:2205.10536" in listed


@pytest.mark.pipeline
def test_it_trains_in_every_form(followed, project):
    """In the project whose tiny matrix has been run, its cells are all that is new, sums included."""
    for file in ("kdcore/methods/pearson.py", "data/recipes.yaml"):
        shutil.copy(followed.folder / file, project.folder / file)
    project.set(methods=["kd", "dkd", "pearson", "at+pearson"], scales=[1, 2], stand=[False])
    ran = project.ran(project.sweep("--jobs", "2"))
    new = {f"train@resnet14-resnet8-{m}-{scale}-False-0" for m in ("pearson", "at+pearson") for scale in (1, 2)}
    assert {name for name in ran if name.startswith(("train@", "baseline@", "teacher@"))} == new
    table = (project.folder / "tables/digits.md").read_text()
    assert "| PEARSON + SDD [1,2]" in table
    assert "| AT+PEARSON " in table


def listing(*names):
    return subprocess.run(
        [sys.executable, "-m", "stages.methods", *names], cwd=ROOT, check=False, capture_output=True, text=True
    )


def test_every_method_is_in_the_list():
    listed = listing().stdout
    for entry in catalog.methods().values():
        assert re.search(rf"^│ {entry.name} +│ {entry.kind}", listed, re.MULTILINE), entry.name
    assert "…" not in listed


def test_list_of_some():
    listed = listing("crd+kd").stdout
    assert re.search(r"^│ crd +│", listed, re.MULTILINE)
    assert "negatives = 16384 (integer >= 1)" in listed
    assert "reviewkd" not in listed
    unknown = listing("kdd")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: unknown method 'kdd'. Did you mean kd?")
