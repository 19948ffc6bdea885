"""docs/start.md is followed word by word, in a copy of the project: own images, own checkpoint, own loss, own table."""

import re
import sys

import pytest

from kdcore.system import yamlfile
from tests.project import ROOT, Project, copy_of_project

PAGE = (ROOT / "docs/start.md").read_text()
IMAGES, TEACHER, METHOD = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SECTIONS,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^python -m .*?(?=  #)", PAGE, re.MULTILINE)
STAND_INS = re.findall(r"^`python (\S+)`$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The project after the page's last step, and what its commands said."""
    project = Project(tmp_path_factory.mktemp("start") / "project")
    project.folder.mkdir()
    copy_of_project(project.folder)
    project.run("git", "init", "-q")
    project.commit()
    said = []
    (project.folder / "../mine").mkdir()
    for path, code in zip(STAND_INS, (IMAGES, TEACHER), strict=True):
        (project.folder / path).write_text(code)
        said.append(project.run("python", path))
    (path,) = re.findall(r"`(kdcore/methods/\w+\.py)`", PAGE)
    (project.folder / path).write_text(METHOD)
    (project.folder / "sections.yaml").write_text(SECTIONS)
    project.set(**yamlfile.read(project.folder / "sections.yaml"))
    return project, [*said, *(project.run(*command.split()) for command in COMMANDS)]


pytestmark = [pytest.mark.slow, pytest.mark.pipeline]


def test_it_ends_with_a_table(followed):
    project, _ = followed
    table = (project.folder / "tables/mine.md").read_text()
    for row in ("Teacher", "Student", "KD", "KD + SDD [1,2]", "TV", "TV + SDD [1,2]"):
        assert re.search(rf"^\| {re.escape(row)} +\| \d\d\.\d\d", table, re.MULTILINE), row
    assert "missing" not in table
    assert (project.folder / "tables/report.html").exists()


def test_its_commands_say_what_the_page_lets_expect(followed):
    _, said = followed
    assert len(COMMANDS) == 3
    top1 = float(re.search(r"top-1: (.*)", said[1])[1])
    promised = float(re.search(r"published_top1: (\d+)", SECTIONS)[1])
    assert abs(top1 - promised) < 4
    assert "params.yaml: 5 cells" in said[2]
    assert "warning" not in said[2]


def test_its_method_is_in_the_house_style(followed):
    project, _ = followed
    project.run("ruff", "check", "kdcore/methods/tv.py")
    project.run("ruff", "format", "--check", "kdcore/methods/tv.py")
    assert "temperature = – (> 0)" in project.run(sys.executable, "-m", "stages.methods", "tv")
