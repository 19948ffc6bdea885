"""Fixtures that several test files use."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from filelock import FileLock

from kdcore.system import signals, yamlfile
from kdcore.system.files import whole
from tests.project import ROOT, TINY, Project, copy_of_project


@pytest.fixture(scope="session", autouse=True)
def teacher_tables(tmp_path_factory):
    """Nothing is kept in the project itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_TABLES", str(tmp_path_factory.mktemp("teacher-tables")))
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Is listened to, though a shell that starts the tests in the background has it ignored, here and in children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def signals_as_before():
    """A command that a test calls in this process changes what signals do, and notes those that arrive."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals.received.clear()


@pytest.fixture
def python():
    """Run a line of Python in a fresh interpreter at the project's root."""

    def run(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A clone in which the tiny matrix has been run; to be read, for other tests, and other workers, share it."""
    own = tmp_path_factory.getbasetemp()
    project = Project((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished")
    with FileLock(f"{project.folder}.lock"):
        if not project.folder.exists():
            with whole(project.folder) as folder:
                _run_tiny_matrix(Project(folder))
    return project


def _run_tiny_matrix(project):
    """As `dvc repro` would, in less time."""
    copy_of_project(project.folder)
    project.run("git", "init", "-q")
    train = yamlfile.read(project.folder / "params.yaml")["train"]
    project.set(**TINY, train={**train, "epochs": 6, "schedule": "cosine"})
    project.commit()
    project.sweep("--jobs", "1")
    shutil.rmtree(project.folder / "scratch/sweep")  # its journal and logs, which a serial run does not have
    project.commit()


@pytest.fixture
def project(finished, tmp_path):
    """A copy of it to change."""
    shutil.copytree(finished.folder, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")
