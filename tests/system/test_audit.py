"""What the project stands on and what it leaves: packages, file modes, and no network."""

import shlex
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kdcore.system import yamlfile
from tests.conftest import ROOT
from tests.project import TINY, Project, copy_of_project
from tests.sweeps import PAIR

UNSHARED = ["unshare", "--net"]
"""A command in a network of its own, of which not even the loopback is up."""


def licences(folder=ROOT):
    """What pip-licenses says by the lists of a folder's pyproject.toml, and its exit code."""
    tool = str(Path(sys.executable).with_name("pip-licenses"))
    done = subprocess.run([tool], cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr, done.returncode


class TestLicences:
    def test_every_licence_is_on_the_list(self):
        assert licences() == ("", 0)

    @pytest.mark.parametrize(("listed", "instead", "message"), [
        ("\nMIT; MIT License;", "\nMIT License;", "license MIT not in allow-only licenses was found for package "),
        ('"pygit2:1.21.0"', '"pygit2:1.20.0"', "not in allow-only licenses was found for package pygit2:"),
        ("; Other/Proprietary License", "; BSD License", "fail-on license BSD License was found for package "),
    ])  # fmt: skip
    def test_one_that_is_not_on_the_list(self, tmp_path, listed, instead, message):
        """An exception is for one version: the next one is looked at again."""
        text = (ROOT / "pyproject.toml").read_text()
        assert listed in text
        (tmp_path / "pyproject.toml").write_text(text.replace(listed, instead))
        said, code = licences(tmp_path)
        assert message in said
        assert code == 1


def make_audit(tmp_path, pinned="odd==1.0; python_version >= '3'\n", vulnerable=0):
    """`make audit` where its tools say what the test wants; returns what it prints, and whether it passed."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "constraints.txt").write_text(pinned)
    (tmp_path / "pyproject.toml").touch()
    tools = tmp_path / ".venv/bin"
    tools.mkdir(parents=True)
    (tmp_path / ".venv/.installed").touch()
    answers = {"pip": "echo odd==1.0", "pip-licenses": "true", "pip-audit": f"echo flaw; exit {vulnerable}"}
    for name, answer in answers.items():
        (tools / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tools / name).chmod(0o755)
    (tools / "python").symlink_to(sys.executable)
    done = subprocess.run(["make", "audit"], cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.stdout, done.returncode == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 takes the newest versions that support it")
class TestMakeAudit:
    def test_what_is_sound(self, tmp_path):
        said, passed = make_audit(tmp_path)
        assert passed
        assert "NOT CHECKED" not in said

    @pytest.mark.parametrize("pinned", ["", "odd==1.0.1\n", "odd>=1.0\n", "odd==1.*\n", "other==1.0\n"])
    def test_pins_that_are_none(self, tmp_path, pinned):
        said, passed = make_audit(tmp_path, pinned=f"# comment\n{pinned}")
        assert not passed
        assert "odd==1.0\nerror: constraints.txt does not pin these installed versions" in said

    def test_flaws_and_no_database_fail(self, tmp_path):
        said, passed = make_audit(tmp_path, vulnerable=1)
        assert not passed
        assert "where pip-audit reached no database, they are NOT CHECKED" in said


PROBE = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).close()
except OSError as error:
    print("cut off:", error)
else:
    sys.exit("the test's own network can be reached")
"""


@pytest.fixture(scope="module")
def cut_off():
    """Run a command in a network of its own, after it was proved that nothing can be reached from there."""
    if subprocess.run([*UNSHARED, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network can be made here that is cut off")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # which can be done outside

        def run(project, *command):
            script = f'umask 077 && python -c "$PROBE" {port} && {shlex.join(command)}'
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PROBE", PROBE)
                said = project.run(*UNSHARED, "sh", "-c", script)
            assert said.startswith("cut off: ")
            return said

        yield run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, cut_off):
    """A matrix that was run without a network, for a user who shares nothing: begun by DVC, and ended by a sweep."""
    folder = tmp_path_factory.mktemp("supply") / "project"
    copy_of_project(folder)
    project = Project(folder)
    train = {**yamlfile.read(folder / "params.yaml")["train"], "epochs": 2, "schedule": "cosine"}
    project.set(**{**TINY, "methods": ["kd"], "scales": [1], "train": train})
    project.run("git", "init", "-q")
    project.commit()
    project.before = set(folder.rglob("*"))
    cut_off(project, "dvc", "repro", f"baseline@{PAIR}-vanilla-base-0")
    project.said = cut_off(project, "python", "-m", "stages.sweep", "--jobs", "2")
    return project


@pytest.mark.pipeline
class TestTinyRun:
    def test_needs_no_network(self, tiny):
        """Nor an interface that is up, though Dask listens on one."""
        assert tiny.said.endswith("3 done, 5 up to date\n")
        assert "Warning" not in tiny.said
        assert tiny.dvc("status").strip() == "Data and pipelines are up to date."
        assert (tiny.folder / "tables/report.html").is_file()

    def test_leaves_nothing_to_others(self, tiny):
        """What it writes can be read by nobody whom the umask excludes, and executed by nobody."""
        made = {path for path in tiny.folder.rglob("*") if ".git" not in path.parts} - tiny.before
        files = {path for path in made if path.is_file()}
        assert len(files) > 50
        modes = {path.relative_to(tiny.folder).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in made}
        assert [name for name, mode in modes.items() if mode & 0o022] == []
        assert [name for name, mode in modes.items() if mode & 0o077 and not name.startswith(".dvc/")] == []
        assert [path for path in files if path.stat().st_mode & 0o111] == []
