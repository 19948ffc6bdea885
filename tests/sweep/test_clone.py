"""Clones in which workers run stages of a sweep: who shares one, and who has to wait."""

import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from kdcore.sweep.clone import Clone
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.sweep.transfer import Post
from kdcore.system.errors import RunError, UserError
from tests.project import ROOT

PROJECT = (
    "stages:\n  one:\n    cmd: touch begun; while [ ! -e go ]; do sleep 0.05; done; echo 1 > out/a\n    outs: [out/a]\n"
)
KEEP = """
import sys, time
from pathlib import Path
from kdcore.sweep.clone import Clone

clone = Clone(Path(sys.argv[1]), "mine", "/mine")
print(clone.keep(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A DVC project with one stage, which waits for a file."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    monkeypatch.setenv("CI", "true")  # DVC looks for no new version of itself
    folder = tmp_path / "clone"
    (folder / "out").mkdir(parents=True)
    Repo.init(str(folder), no_scm=True).close()
    (folder / "dvc.yaml").write_text(PROJECT)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def start():
    started = []

    def start(*command, **options):
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def dvc(*arguments):
    return [str(Path(sys.executable).with_name("dvc")), *arguments]


def test_workers_of_one_sweep_share_a_clone_and_those_of_another_one_wait(folder):
    first, second, other = (Clone(folder, name, f"/{name}") for name in ("mine", "mine", "other"))
    assert [first.keep(), second.keep(), first.keep()] == ["", "", ""]
    refused = f"{folder} serves another sweep, that of /mine: wait for that sweep, or start this worker in a clone of"
    assert other.keep().startswith(refused)
    first.release()
    assert other.keep().startswith(refused), "the second worker is still there"
    second.release()
    assert other.keep() == ""
    assert "that of /other" in first.keep()


def test_a_worker_that_is_killed_keeps_nothing(folder, start):
    worker = start(sys.executable, "-c", KEEP, str(folder), cwd=ROOT)
    assert worker.stdout.readline() == "\n"
    other = Clone(folder, "other", "/other")
    assert "that of /mine" in other.keep()
    worker.kill()
    worker.wait()
    assert other.keep() == ""
    with pytest.raises(UserError, match="a Dask worker for the sweep of /other"), Pipeline(folder).held():
        pass
    other.release()
    with Pipeline(folder).held():
        pass


def test_dvc_and_workers_keep_each_other_out(folder, start):
    """Those of one sweep go on beside each other, though each of them also writes."""
    worker = start(sys.executable, "-c", KEEP, str(folder), cwd=ROOT)
    assert worker.stdout.readline() == "\n"
    refused = subprocess.run(dvc("repro"), cwd=folder, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert f"(PID {worker.pid}): a Dask worker for the sweep of /mine" in refused.stderr
    assert not (folder / "begun").exists()
    beside = Clone(folder, "mine", "/mine")
    assert beside.keep() == ""
    (folder / "out/a").write_text("made here")
    subprocess.run(dvc("remote", "add", "--default", "here", str(folder.parent / "remote")), cwd=folder, check=True)
    items = Post(folder).send_outputs(["out/a"])
    (folder / "out/a").unlink()
    Post(folder).fetch(items)
    assert (folder / "out/a").read_text() == "made here"
    beside.release()
    worker.kill()
    worker.wait()
    repro = start(*dvc("repro"), cwd=folder)
    while not (folder / "begun").exists():
        assert repro.poll() is None
    busy = beside.keep()
    assert busy.startswith(f"another command of DVC is at work in {folder}: ")
    assert f"(PID {repro.pid})" in busy
    assert "\n" not in busy
    (folder / "go").touch()
    assert repro.wait() == 0
    assert beside.keep() == ""


def test_an_input_that_changes_under_a_stage(folder):
    """By hand, for what DVC and sweeps do has to wait. What the stage made is not taken."""
    subprocess.run(dvc("remote", "add", "--default", "here", str(folder.parent / "remote")), cwd=folder, check=True)
    (folder / "out/a").write_text("a teacher")
    post = Post(folder)
    items = post.send_outputs(["out/a"])
    post.check(items)
    (folder / "out/a").unlink()
    (folder / "out/a").write_text("another one")
    with pytest.raises(RunError, match=f"out/a: changed in {folder} while the stage read it; run it again"):
        post.check(items)
    (folder / "out/a").unlink()
    with pytest.raises(RunError, match="out/a: changed in"):
        post.check(items)
    post.fetch(items)
    post.check(items)
