"""DVC itself is killed while it writes its own files: the next run goes on all the same."""

import shutil
import sys
from collections import Counter

import pytest

from tests import sweeps
from tests.sweeps import SweepProject

pytestmark = pytest.mark.pipeline

KILLER = '''"""Python imports this by itself."""

import os
import signal
import sys

written, size = os.environ["KILLED_IN"], int(os.environ["KILLED_AT"])
before = iter(range(int(os.environ["KILLED_AFTER"])))


def kill(event, arguments):
    """In the middle of the n-th time that a file is written in place."""
    if event != "open" or not isinstance(arguments[0], str) or not arguments[0].endswith(f"/{written}"):
        return
    if arguments[1] and "w" in arguments[1] and next(before, None) is None:
        os.truncate(arguments[0], size)
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(kill)
'''
SWEEP = ("python", "-m", "stages.sweep", "--jobs", "2")
REPRO = ("dvc", "repro")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A project that is up to date and committed; to be copied."""
    project = sweeps.make(tmp_path_factory.mktemp("mend") / "project")
    project.run(*SWEEP)
    project.commit()
    return project


@pytest.fixture
def swept(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "swept", symlinks=True)
    return SweepProject(tmp_path / "swept")


@pytest.fixture
def fresh(whole, tmp_path):
    """The same, before anything was run."""
    project = SweepProject(tmp_path / "fresh")
    whole.run("git", "clone", "--quiet", str(whole.folder), str(project.folder))
    project.run("git", "reset", "--quiet", "--hard", "HEAD~1")
    project.behave()
    return project


def killed(project, command, file, after, at):
    """Run a command that is killed when it writes a file after so many times, of which so many bytes are left."""
    hook = project.folder.parent / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(KILLER)
    hooked = {"PYTHONPATH": str(hook), "KILLED_IN": file, "KILLED_AFTER": str(after), "KILLED_AT": str(at)}
    project.run(*command, code=-9, environment=hooked)


@pytest.mark.parametrize(
    ("command", "when", "says"),
    [
        (SWEEP, ("rwlock", 60, 5), "removed"),
        (REPRO, ("rwlock", 60, 0), "removed"),
        (REPRO, ("dvc.lock", 4, 0), "it is gone now"),
        (REPRO, ("dvc.lock", 5, len("schema: '2.0'\nstages:\n  plan:\n")), "it is gone now"),
        (REPRO, ("dvc.lock", 6, 300), None),  # DVC can read the beginning
    ],
)
def test_goes_on(whole, fresh, command, when, says):
    """Nothing that was finished runs again, and the end is that of a run that nobody killed."""
    killed(fresh, command, *when)
    ran = set(fresh.ran)
    output = fresh.run("python", "-m", "stages.mend") if command == REPRO else ""
    output += fresh.run(*command)
    assert ("was left half-written" in output) == (says is not None)
    assert (says or "") in output
    assert fresh.digest("dvc.lock") == whole.digest("dvc.lock")
    assert fresh.dvc("status").strip() == "Data and pipelines are up to date."
    assert ran
    assert sum(times > 1 for times in Counter(fresh.ran).values()) <= 1, "more than the stage that was being recorded"


def test_without_git(swept):
    """It is not asked for where nothing is damaged, and not missed where something is."""
    (swept.folder / "dvc.lock").write_text("half")
    output = swept.run(sys.executable, "-m", "stages.mend", environment={"PATH": "/nowhere"})
    assert "dvc.lock: was left half-written" in output
    assert "it is gone now" in output
    assert not swept.run(sys.executable, "-m", "stages.mend", environment={"PATH": "/nowhere"})


def test_what_was_committed_stays_recorded(whole, swept):
    """Though neither the run cache nor the other half of the file knows it any more."""
    lock = swept.folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:30])
    shutil.rmtree(swept.folder / ".dvc/cache/runs")
    swept.forget()
    output = swept.run(*SWEEP)
    assert "it is as in the last commit now" in output
    assert (swept.folder / ".dvc/tmp/dvc.lock.damaged").stat().st_size == 30
    assert not swept.ran
    assert swept.digest("dvc.lock") == whole.digest("dvc.lock")


def test_without_damage_nothing_is_done(swept):
    (swept.folder / ".dvc/tmp/rwlock").write_text('{"read": {"/somewhere": [{"pid": 1, "cmd": "dvc repro"}]}}')
    before = {path: swept.digest(path) for path in ("dvc.lock", ".dvc/tmp/rwlock")}
    assert not swept.run("python", "-m", "stages.mend")
    assert {path: swept.digest(path) for path in before} == before


def test_a_conflict_is_left_to_a_person(swept):
    lock = swept.folder / "dvc.lock"
    conflict = b"<<<<<<< HEAD\n" + lock.read_bytes() + b"=======\n>>>>>>> other\n"
    lock.write_bytes(conflict)
    for command in (("python", "-m", "stages.mend"), SWEEP):
        assert "dvc.lock: holds a conflict that git could not merge" in swept.run(*command, code=2)
    assert lock.read_bytes() == conflict
