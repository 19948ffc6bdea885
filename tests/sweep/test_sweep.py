"""Sweeps of projects whose stages do next to nothing: what runs, what is left behind, and what goes wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import dumps_yaml

from kdcore.sweep.dvc_pipeline import _as_dvc_writes
from kdcore.system import yamlfile
from tests import sweeps
from tests.project import PARAMS
from tests.sweeps import PAIR, SweepProject, cell

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

VANILLA = f"{PAIR}-vanilla-base-0"
CELLS = {VANILLA, *(cell(method, scale) for method in ("kd", "dkd") for scale in (1, 2))}


@pytest.fixture
def project(tmp_path):
    return sweeps.make(tmp_path / "project")


@pytest.fixture
def swept(whole, tmp_path):
    """A project that is up to date, to change."""
    shutil.copytree(whole.folder, tmp_path / "project", symlinks=True)
    return SweepProject(tmp_path / "project")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Sixteen cells and more, at eight jobs."""
    project = sweeps.make(tmp_path_factory.mktemp("sweep") / "project", seeds=4)
    project.output = project.sweep("--jobs", "8")
    project.commit()
    return project


def test_does_nothing_twice(whole, swept):
    assert whole.output.endswith("26 done\n")
    assert swept.dvc("status").strip() == "Data and pipelines are up to date."
    swept.forget()
    before = (swept.folder / "dvc.lock").stat().st_mtime_ns
    assert swept.sweep("--jobs", "2").strip() == "26 up to date"
    assert swept.ran == []
    assert (swept.folder / "dvc.lock").stat().st_mtime_ns == before
    assert swept.run("git", "status", "--porcelain") == ""


def test_only_what_is_stale_runs_and_keeps_its_place_in_the_lock(swept, tmp_path):
    swept.set(methods_config={"kd": {"temperature": 3}})
    shutil.copytree(swept.folder, tmp_path / "serial", symlinks=True)
    swept.forget()
    swept.sweep("--jobs", "2")
    assert set(swept.ran) == {cell("kd", scale, seed) for scale in (1, 2) for seed in range(4)}
    serial = SweepProject(tmp_path / "serial")
    serial.dvc("repro")
    assert (serial.folder / "dvc.lock").read_bytes() == (swept.folder / "dvc.lock").read_bytes()


def test_targets_and_patterns(swept):
    swept.set(seeds=[0, 1, 2, 3, 4])
    swept.forget()
    swept.sweep("--jobs", "2", f"train@{cell('kd', 1, 4)}")
    assert swept.ran == [cell("kd", 1, 4)]
    swept.sweep("--jobs", "2", "--glob", "train@*-kd-*")
    assert swept.ran == [cell("kd", 1, 4), cell("kd", 2, 4)]
    assert f"names no stage. Did you mean baseline@{VANILLA}? 'dvc" in swept.sweep(f"train@{VANILLA}", code=2)


def test_baselines_first_then_in_the_order_of_a_serial_run(project):
    project.sweep("--jobs", "1")
    assert project.ran == ["resnet14", VANILLA, *(cell(method, scale) for method in ("kd", "dkd") for scale in (1, 2))]


def test_cached_cells_are_brought_back(swept):
    swept.set(seeds=[0])
    swept.sweep()
    for name in ("runs", "evaluations"):
        shutil.rmtree(swept.folder / name)
    swept.forget()
    output = swept.sweep("--jobs", "2")
    assert swept.ran == []
    assert f"train@{cell('kd', 1)}: was in the cache" in output


def test_a_variant_is_found_by_an_experiment(swept):
    swept.forget()
    swept.sweep("--jobs", "2", "-S", "scales=[1,2,4]")
    new = {cell(method, 4, seed) for method in ("kd", "dkd") for seed in range(4)}
    assert set(swept.ran) == new
    assert yamlfile.read(swept.folder / "params.yaml")["scales"] == [1, 2, 4]
    swept.run("git", "restore", ".")
    swept.dvc("checkout")
    swept.forget()
    swept.dvc("exp", "run", "-S", "scales=[1,2,4]")
    assert swept.ran == []
    assert set(json.loads((swept.folder / f"evaluations/{PAIR}/metrics.json").read_text())["cells"]) >= new


@pytest.mark.parametrize(("changes", "message"), [
    (["scales=[1,3]"], "params.yaml with -S scales=[1,3]: scales"),
    (["scals=[1]"], "-S scals=[1]: "),
    (["scales=["], "-S scales=[: "),
    (["seeds=5"], "params.yaml with -S seeds=5: seeds: 5: must be a list; write seeds: [5] (-S 'seeds=[5]')"),
    (["methods=kd"], "methods: 'kd': must be a list; write methods: [kd] (-S 'methods=[kd]')"),
    (["seeds=0,1"], "-S seeds=0,1: values without brackets are one experiment each, for 'dvc exp run --queue'; write "
                    "'seeds=[0,1]'"),
])  # fmt: skip
def test_a_wrong_variant_changes_nothing(project, changes, message):
    before = (project.folder / "params.yaml").read_bytes()
    arguments = [part for change in changes for part in ("-S", change)]
    assert message in project.sweep(*arguments, code=2)
    assert (project.folder / "params.yaml").read_bytes() == before
    assert project.run("git", "status", "--porcelain") == ""


def test_what_dvc_cannot_write_changes_nothing(project):
    """DVC takes lists apart when it first changes a file, and then writes an empty one wrongly."""
    shutil.copy(PARAMS, project.folder / "params.yaml")  # whose lists have comments
    apply_overrides(project.folder / "params.yaml", ["robustness=[corruptions]"])
    before = (project.folder / "params.yaml").read_bytes()
    message = "error: -S robustness=[]: DVC cannot write this into a file that it has changed before; take the earlier"
    assert message in project.sweep("-n", "-S", "robustness=[]", code=2)
    assert (project.folder / "params.yaml").read_bytes() == before


def test_a_failed_variant_says_what_it_leaves(project):
    project.behave(**{cell("kd", 4): "fail"})
    output = project.sweep("--jobs", "2", "-S", "scales=[4]", "-S", "methods=[kd]", code=1)
    assert "params.yaml still holds what -S changed; 'git checkout params.yaml' takes that back, and other ed" in output
    project.run("git", "checkout", "-q", "params.yaml")
    assert "what -S changed" not in project.sweep("--jobs", "2", "-S", "methods=[kd,dkd]")


def test_a_failure_blocks_what_needs_it_and_nothing_else(project):
    name = cell("kd", 2)
    project.behave(**{name: "fail"})
    output = project.sweep("--jobs", "2", code=1)
    assert f"train@{name}: failed: failed (exit code 1), see scratch/sweep/logs/train@{name}.log" in output
    assert f"    error: {name} was told to fail" in output
    assert f"    blocked by it: evaluate@{PAIR}, tables" in output
    assert "8 done, 1 failed, 2 blocked" in output
    assert "what -S changed" not in output
    assert set(project.ran) == CELLS | {"resnet14"}
    project.behave()
    project.forget()
    assert "3 done" in project.sweep("--failed")
    assert project.ran == [name]
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert "nothing failed" in project.sweep("--failed", code=2)


def test_what_failed_and_was_not_come_to_again(project):
    name = cell("kd", 2)
    project.behave(**{name: "fail"})
    project.sweep("--jobs", "2", code=1)
    project.forget()
    project.behave(**{name: "wait"})
    with project.sweeping("--failed", "--jobs", "2") as process:
        project.wait_for(lambda: project.ran == [name])
        assert sweeps.stop(process) == 128 + signal.SIGTERM
    project.behave()
    assert "3 done" in project.sweep("--failed")


def test_paths_that_a_killed_sweep_has_locked(project):
    """DVC takes any process of its number for it, such as the first one of another container."""
    project.sweep("--jobs", "2")
    locks = project.folder / ".dvc/tmp/rwlock"
    here = {"pid": os.getpid(), "cmd": f"{project.folder}/stages/sweep.py --jobs 2"}
    other = {"pid": os.getpid(), "cmd": "dvc repro"}
    locks.write_text(json.dumps({"write": {f"{project.folder}/runs": here}, "read": {f"{project.folder}/x": [other]}}))
    project.set(methods_config={"kd": {"temperature": 3}})
    assert "is busy" in project.dvc("repro", code=255)
    assert "4 done" in project.sweep("--jobs", "2")
    assert json.loads(locks.read_text())["read"] == {f"{project.folder}/x": [other]}


def test_a_command_of_dvc_that_was_suspended_is_named(project):
    hold = "from dvc.repo import Repo\nimport time\nwith Repo().lock:\n    print(flush=True)\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], cwd=project.folder, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with project.sweeping("--jobs", "2") as process:
            project.wait_for(lambda: "dvc/tmp/lock: another command of DVC holds it; waiting" in project.said())
            other.kill()
            assert process.wait(timeout=60) == 0, project.said()


def test_an_exit_code_is_no_result(project):
    name = cell("dkd", 1)
    project.behave(**{name: "write nothing"})
    output = project.sweep("--jobs", "2", code=1)
    assert f"train@{name}: failed: runs/{PAIR}/{name}: has not been made" in output


def test_lost_and_too_big_cells_are_tried_again(project):
    lost, big = cell("kd", 1), cell("dkd", 1)
    project.behave(**{lost: "die once", big: "too big once"})
    output = project.sweep("--jobs", "2")
    assert f"train@{lost}: lost; is tried again" in output
    assert f"train@{big}: out of memory; is tried again" in output
    assert "1 at a time from now on" in output
    assert sorted(project.ran) == sorted([*CELLS, "resnet14", lost, big])


def test_a_cell_that_is_tried_again_after_a_changed_setting_is_run_again(swept):
    """Its old results are not taken for those of the new setting."""
    swept.set(methods_config={"kd": {"temperature": 3}})
    swept.forget()
    swept.behave(**{cell("kd", 1): "die once"})
    swept.sweep("--jobs", "1", f"train@{cell('kd', 1)}")
    assert swept.ran == [cell("kd", 1)] * 2
    meta = swept.folder / "runs" / PAIR / cell("kd", 1) / "meta.json"
    assert json.loads(meta.read_text())["recipe"]["temperature"] == 3


def test_a_stage_whose_inputs_change_while_it_runs_is_not_recorded(project):
    """Nobody knows what its results were made from."""
    name = cell("kd", 1)
    teacher = project.folder / f"pairs/{PAIR}.safetensors"
    project.behave(**{name: "wait"})
    with project.sweeping("--jobs", "1") as process:
        project.wait_for(lambda: name in project.ran)
        before = teacher.read_text()
        teacher.write_text("another one")
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 1, project.said()
    said = f"train@{name}: failed: pairs/{PAIR}.safetensors changed while it ran; run the same command again"
    assert said in project.said()
    assert f"train@{name}" not in yamlfile.read(project.folder / "dvc.lock")["stages"]
    project.sweep("--jobs", "1")
    assert teacher.read_text() == before
    assert project.dvc("status").strip() == "Data and pipelines are up to date."


def test_a_plan_of_params_that_change_before_it_reads_them_is_not_recorded(project):
    later = f"{(project.folder / 'params.yaml').read_text()}# later"
    edit = f"    import pathlib\n\n    pathlib.Path('params.yaml').write_text({later!r})\n    if not arguments:\n"
    project.edit("stages/plan.py", "    if not arguments:\n", edit)
    project.edit("stages/plan.py", "@unchanged(*PLAN_READS)\n", "")
    said = project.sweep("--jobs", "1", code=1)
    assert "plan: failed: params.yaml changed while it ran; run the same command again" in said
    project.sweep("--jobs", "1")


def test_a_lost_cell_fails_after_its_tries(project):
    name = cell("kd", 1)
    project.behave(**{name: "die once"})
    output = project.sweep("--jobs", "2", "--retries", "0", code=1)
    assert f"train@{name}: failed: lost: killed from outside" in output


def test_a_cell_that_gets_on_may_be_lost_more_often(project):
    name = cell("kd", 1)
    project.behave(**{name: "die after each epoch"})
    output = project.sweep("--jobs", "2", "--retries", "1")
    assert output.count(f"train@{name}: lost; is tried again") == 4
    assert project.ran.count(name) == 5


def test_a_hanging_cell_is_ended(project):
    name = cell("kd", 1)
    project.behave(**{name: "hang"})
    output = project.sweep("--jobs", "2", "--timeout", "0.1", code=1)
    assert f"train@{name}: failed: timed out" in output
    assert "interrupted" in (project.folder / f"scratch/sweep/logs/train@{name}.log").read_text()
    assert set(project.ran) == CELLS | {"resnet14"}


def test_a_stage_that_says_nothing_because_it_trains_nothing_goes_on(project):
    """Corruptions of ImageNet take most of a day, and a download hours."""
    project.behave(**{PAIR: "wait"})
    with project.sweeping("--jobs", "2", "--timeout", "0.02") as process:
        project.wait_for(lambda: set(project.ran) == CELLS | {"resnet14"})
        time.sleep(4)
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 0, project.said()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_by_a_signal(project, how):
    """Running stages end with the sweep, though it is killed; the next sweep repeats only what had not ended."""
    waiting = cell("kd", 2)
    project.behave(**{waiting: "wait"})
    with project.sweeping("--jobs", "1") as process:
        project.wait_for(lambda: waiting in project.ran)
        code = sweeps.stop(process, how)
    assert code == (-how if how == signal.SIGKILL else 128 + how)
    if how != signal.SIGKILL:
        assert f"stopping: train@{waiting} may save their states" in project.said()
        assert "stopped" in project.said().splitlines()[-1]
    log = project.folder / f"scratch/sweep/logs/train@{waiting}.log"
    project.wait_for(lambda: "interrupted" in log.read_text())
    project.behave()
    done = set(project.ran) - {waiting}
    project.forget()
    project.sweep("--jobs", "2")
    assert done == {"resnet14", VANILLA, cell("kd", 1)}
    assert set(project.ran) == {waiting, cell("dkd", 1), cell("dkd", 2)}
    recorded = [name for name in yamlfile.read(project.folder / "dvc.lock")["stages"] if name.startswith("train@")]
    assert recorded == [f"train@{cell(method, scale)}" for method in ("kd", "dkd") for scale in (1, 2)]


def test_one_at_a_time(project):
    """A second sweep, and DVC's own commands, say who is at work."""
    project.behave(**{VANILLA: "wait"})
    with project.sweeping("--jobs", "1", "--retries", "1") as process:
        project.wait_for(lambda: VANILLA in project.ran)
        refused = project.sweep(code=2)
        assert f"'python -m stages.sweep --jobs 1 --retries 1', process {process.pid} on" in refused
        busy = project.dvc("repro", code=255)
        assert "is busy" in busy
        assert f"(PID {process.pid})" in busy
        project.set(seeds=[0, 1])
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 0
    assert "params.yaml has changed since this sweep began" in project.said()
    assert f"{PAIR}-vanilla-base-1" not in project.ran
    project.forget()
    project.sweep("--jobs", "2")
    assert len(project.ran) == len(CELLS)


def test_a_full_disk(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mounted)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        project = sweeps.make(mounted / "project")
        name = cell("kd", 1)
        project.behave(**{name: "fill the disk"})
        output = project.sweep("--jobs", "1", code=1)
        assert "the disk is full: make space" in output
        done = set(project.ran) - {name}
        (project.folder / "ballast").unlink()
        project.behave()
        project.forget()
        project.sweep("--jobs", "1")
        assert name in project.ran
        assert not done & set(project.ran)
        assert project.dvc("status").strip() == "Data and pipelines are up to date."
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


class Dask:
    """A scheduler, and workers as they are started."""

    def __init__(self, folder):
        self.started, file = [], folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        while not file.is_file() or not file.read_text().endswith("\n}"):  # Dask writes it in place
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]

    def work(self, folder, threads=1):
        return self._start("worker", self.address, "--nthreads", str(threads), folder=folder)

    def _start(self, *arguments, folder=None):
        command = [sys.executable, "-m", "dask", *arguments, "--no-dashboard"]
        self.started.append(subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL))
        return self.started[-1]

    def end(self):
        for process in self.started:
            process.kill()  # of a worker the nanny, with which it ends
            process.wait(timeout=60)


@contextmanager
def running_dask(folder):
    folder.mkdir(exist_ok=True)
    running = Dask(folder)
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def dask(tmp_path):
    with running_dask(tmp_path) as running:
        yield running


def test_workers_in_clones_of_their_own(swept, dask, tmp_path):
    """They share a DVC remote with the sweep, and nothing else."""
    remote = tmp_path / "remote"
    swept.dvc("remote", "add", "--default", "here", str(remote))
    swept.commit()
    clones = [tmp_path / name for name in ("one", "two")]
    for clone in clones:
        swept.run("git", "clone", "-q", str(swept.folder), str(clone))
        shutil.copy(swept.folder / "behaviour.json", clone)
        dask.work(clone)
    (clones[0] / ".dvc/tmp").mkdir(exist_ok=True)
    (clones[0] / ".dvc/tmp/rwlock").touch()  # of a worker that was killed while DVC wrote it
    swept.set(seeds=[0, 1, 2, 3, 4, 5])
    swept.forget()
    output = swept.sweep("--scheduler", dask.address)
    assert swept.ran == []
    ran = [SweepProject(clone).ran for clone in clones]
    assert all(ran), output
    new = {name.replace("-0", f"-{seed}") for name in CELLS for seed in (4, 5)}
    assert set().union(*ran) == new
    assert swept.dvc("status").strip() == "Data and pipelines are up to date."
    assert (swept.folder / f"runs/{PAIR}/{cell('kd', 2, 5)}/meta.json").is_file()


def test_a_clone_serves_one_sweep_at_a_time(swept, dask, tmp_path):
    """Another sweep, and a `dvc repro` there, would put other inputs under a running stage. The sweep says why its
    worker does nothing, and goes on when the clone is free.
    """
    swept.dvc("remote", "add", "--default", "here", str(tmp_path / "remote"))
    swept.commit()
    clone, other = (SweepProject(tmp_path / name) for name in ("clone", "other"))
    swept.run("git", "clone", "-q", str(swept.folder), str(clone.folder))
    shutil.copytree(swept.folder, other.folder, symlinks=True)
    first, second = (f"{PAIR}-vanilla-base-{seed}" for seed in (4, 5))
    clone.behave(**{first: "wait"})
    swept.set(seeds=[4])
    other.set(seeds=[5])
    with running_dask(tmp_path / "second") as others:
        dask.work(clone.folder)
        with swept.sweeping("--scheduler", dask.address) as process:
            swept.wait_for(lambda: first in clone.ran)
            others.work(clone.folder)
            with other.sweeping("--scheduler", others.address) as waiting:
                says = f"{clone.folder} serves another sweep, that of {swept.folder}: wait for that sweep, or start"
                other.wait_for(lambda: says in other.said())
                assert f"a Dask worker for the sweep of {swept.folder}" in clone.dvc("repro", code=255)
                assert second not in clone.ran
                (clone.folder / "go").touch()
                assert process.wait(timeout=60) == 0, swept.said()
                assert waiting.wait(timeout=60) == 0, other.said()
    assert {first, second} <= {*clone.ran}
    assert (other.folder / f"runs/{PAIR}/{second}/meta.json").is_file()


def test_workers_that_come_and_go(project, dask, tmp_path):
    """A sweep waits for the first, and for another one in the place of its last; the cell that ran there runs again. It
    names one that cannot work, though another one does.
    """
    shutil.copytree(project.folder, tmp_path / "edited")
    (tmp_path / "edited/kdcore/edited.py").touch()
    lost = cell("kd", 1)
    project.behave(**{lost: "wait"})
    with project.sweeping("--scheduler", dask.address) as process:
        project.wait_for(lambda: "waiting for workers" in project.said())
        worker = dask.work(project.folder)
        project.wait_for(lambda: lost in project.ran)
        edited = dask.work(tmp_path / "edited")
        project.wait_for(lambda: f"{tmp_path}/edited holds other code than the sweep's folder" in project.said())
        edited.kill()
        worker.kill()  # the nanny; its worker ends with it, a moment later
        project.wait_for(lambda: project.said().count("waiting for workers") == 2)
        (project.folder / "go").touch()
        dask.work(project.folder)
        assert process.wait(timeout=60) == 0, project.said()
    assert project.ran.count(lost) == 2
    assert len(project.ran) == len(CELLS) + 2


def test_a_sweep_that_goes_on_before_its_worker_is_there(project, dask):
    """Nothing is left to be done but cells."""
    project.behave(**dict.fromkeys(CELLS, "fail"))
    project.sweep("--jobs", "2", code=1)
    project.behave()
    project.forget()
    with project.sweeping("--scheduler", dask.address) as process:
        project.wait_for(lambda: "waiting for workers" in project.said())
        dask.work(project.folder)
        assert process.wait(timeout=60) == 0, project.said()
    assert set(project.ran) == CELLS


def test_one_sweep_at_a_scheduler(project, dask, tmp_path):
    """Another one is refused while it is there; one that was killed is not, and what it has left running ends first."""
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    dask.work(project.folder, threads=2)
    other = SweepProject(tmp_path / "other")
    shutil.copytree(project.folder, other.folder)
    with project.sweeping("--scheduler", dask.address) as process:
        project.wait_for(lambda: waiting in project.ran)
        assert "another sweep is at work there" in other.sweep("--scheduler", dask.address, code=2)
        sweeps.stop(process, signal.SIGKILL)
    project.behave()
    project.sweep("--scheduler", dask.address)
    assert project.ran.count(waiting) == 2
    log = project.folder / f"scratch/sweep/logs/train@{waiting}.log"
    assert log.read_text().count("begins") == 1  # begun anew, when nobody wrote to it any more
    assert not list((project.folder / "scratch/sweep").glob("token-*"))


def test_stopped_while_no_worker_is_there(project, dask):
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    worker = dask.work(project.folder)
    with project.sweeping("--scheduler", dask.address) as process:
        project.wait_for(lambda: waiting in project.ran)
        worker.kill()
        project.wait_for(lambda: "waiting for workers" in project.said())
        assert sweeps.stop(process) == 128 + signal.SIGTERM
    assert "stopped" in project.said().splitlines()[-1]


def test_a_scheduler_that_goes(project, dask):
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    dask.work(project.folder)
    patience = ("env", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=2s")
    with project.sweeping("--scheduler", dask.address, prefix=patience) as process:
        project.wait_for(lambda: waiting in project.ran)
        dask.started[0].kill()
        assert process.wait(timeout=120) == 1, project.said()
    assert "error: the Dask scheduler is gone; start it and its workers again" in project.said()
    assert "Traceback" not in project.said()


def test_a_queue_submits_a_job_that_has_ended_again(project, tmp_path, monkeypatch):
    """Of Slurm, played by a script."""
    programs = tmp_path / "bin"
    programs.mkdir()
    submit = f"""cp "${{@: -1}}" {programs}/job
bash {programs}/job > /dev/null 2>&1 &
echo $! > {programs}/pid
echo Submitted batch job 7"""
    for name, line in (("sbatch", submit), ("scancel", f"pkill -P $(cat {programs}/pid)")):
        (programs / name).write_text(f"#!/bin/bash\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "1s")
    project.edit("kdcore/sweep/job_queue.py", "PAUSE, LONGEST_PAUSE = 10.0", "PAUSE, LONGEST_PAUSE = 0.1")
    options = {"cores": 1, "processes": 1, "memory": "2GB", "interface": "lo"}
    yamlfile.write(project.folder / "slurm.yaml", {"cluster": "SLURMCluster", "jobs": 1, "options": options})
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    with project.sweeping("--cluster", "slurm.yaml") as process:
        project.wait_for(lambda: waiting in project.ran)
        (worker,) = psutil.Process(int((programs / "pid").read_text())).children()
        worker.terminate()
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 0, project.said()
    assert f"train@{waiting}: lost; is tried again" in project.said()


def test_nohup(project):
    """The terminal goes, the sweep stays."""
    waiting = cell("kd", 1)
    project.behave(**{waiting: "wait"})
    with project.sweeping("--jobs", "2", prefix=("nohup",)) as process:
        project.wait_for(lambda: waiting in project.ran)
        process.send_signal(signal.SIGHUP)
        (project.folder / "go").touch()
        assert process.wait(timeout=60) == 0, project.said()


def test_an_interrupt_that_python_throws_away(project):
    """An exception in a __del__ is lost."""
    gone = "        class Gone:\n            def __del__(self):\n                import os; os.kill(os.getpid(), 2)\n\n"
    pipeline = "        pipeline = Pipeline(Path.cwd(), failed()"
    project.edit("kdcore/sweep/cli.py", pipeline, f"{gone}        Gone()\n{pipeline}")
    assert "stopped" in project.sweep("--jobs", "2", code=130).splitlines()[-1]
    assert project.ran == []


@pytest.mark.parametrize("shell", ["{} >&- 2>&- <&-", "{} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"])
def test_what_nobody_reads(project, shell):
    """A sweep does its work though its output is closed, or its reader gone."""
    project.run("bash", "-c", shell.format("python -m stages.sweep --jobs 2"))
    assert set(project.ran) == CELLS | {"resnet14"}


def test_a_killed_cell_is_lost_though_its_child_lives(project):
    name = cell("kd", 1)
    project.behave(**{name: "die once, but for a child"})
    assert f"train@{name}: lost; is tried again" in project.sweep("--jobs", "2")
    child = int((project.folder / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_no_scheduler(project):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [f"tcp://127.0.0.1:{silent.getsockname()[1]}", "tcp://127.0.0.1:9", "tls://here:9", "here"]
        for address in addresses:
            output = project.sweep("--scheduler", address, code=2)
            assert f"--scheduler {address}: no Dask scheduler answers there" in output
    assert project.ran == []


@pytest.mark.parametrize(("arguments", "message"), [
    (["--jobs", "0"], "--jobs 0: must be 1 or more"),
    (["--retries", "-1"], "--retries -1: must be 0 or more"),
    (["--timeout", "nan"], "--timeout nan: must be 0 or more"),
    (["--failed", "tables"], "leave one of them out"),
    (["--jobs", "2", "--scheduler", "tcp://a:1"], "not allowed with"),
])  # fmt: skip
def test_wrong_arguments(project, arguments, message):
    assert message in project.sweep(*arguments, code=2)
    assert not Path(project.folder, "scratch").exists()


def test_the_record_is_written_as_dvc_writes_it():
    """Byte for byte, whatever a text looks like and however long it is; by libyaml, which DVC does not write with."""
    texts = ["1e5", "0123", "12345678901234567890e12345678901", "1" * 32, "yes", "null", "a: b", "a #b", "", "é", "1.0"]
    texts += [
        f"{command}{'x' * length}" for command in ("", "python -m stages.train train ") for length in range(20, 99)
    ]
    stages = {
        f"train@{number}": {"cmd": text, "deps": [{"path": text, "hash": "md5", "size": 1}], "outs": [{"path": text}]}
        for number, text in enumerate(texts)
    }
    content = {"schema": "2.0", "stages": stages}
    assert _as_dvc_writes(content) == dumps_yaml(content)
