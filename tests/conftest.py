"""Fixtures that several test files use."""

import shutil
import subprocess
import sys

import pytest

from kdcore import yamlfile
from tests.project import ROOT, TINY, Project, copy_of_project


@pytest.fixture(scope="session", autouse=True)
def teacher_tables(tmp_path_factory):
    """Nothing is kept in the project itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_TABLES", str(tmp_path_factory.mktemp("teacher-tables")))
        yield


@pytest.fixture
def python():
    """Run a line of Python in a fresh interpreter at the project's root."""

    def run(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A clone in which the tiny matrix has been run; to be read, for other tests share it."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    copy_of_project(folder)
    project = Project(folder)
    project.run("git", "init", "-q")
    project.set(**TINY)
    project.set(train={**yamlfile.read(folder / "params.yaml")["train"], "epochs": 6, "schedule": "cosine"})
    project.commit()
    project.run("python", "-m", "stages.sweep", "--jobs", "1")  # half the time of a serial run
    project.commit()
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of it to change."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")
