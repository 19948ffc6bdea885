"""What sweeps are made of: schedule, order, estimates, slots, clusters, jobs and DVC's pipeline."""

import json
import os
import queue
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcore.matrix import params
from kdcore.sweep import clusters, display, journal, processes
from kdcore.sweep import crew as crews
from kdcore.sweep.crew import Crew
from kdcore.sweep.dask_workers import PLUGIN, Joining
from kdcore.sweep.processes import Ending, Job, Slots
from kdcore.sweep.schedule import GOOD, SETTLED, Estimates, Order, Schedule, State
from kdcore.sweep.transfer import code_of
from kdcore.system.errors import UserError
from kdcore.training.timings import Timing
from tests.project import PARAMS, ROOT, TRAINED


@st.composite
def graphs(draw):
    """Steps with what they need, in an order in which they can run."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 12)))]
    return {name: draw(st.sets(st.sampled_from(names[:index]))) if index else set() for index, name in enumerate(names)}


@given(graphs(), st.data())
def test_every_step_runs_once_after_its_needs_or_is_blocked(needs, data):
    schedule = Schedule.of(needs, rank=list(needs).index)
    broken = data.draw(st.sets(st.sampled_from(list(needs))))
    ran = []
    while ready := schedule.ready():
        name = data.draw(st.sampled_from(ready))
        assert all(schedule.steps[above].state in GOOD for above in needs[name])
        ran.append(name)
        schedule.settle(name, State.FAILED if name in broken else State.DONE)
    assert schedule.is_finished
    assert len(ran) == len(set(ran))
    for name, step in schedule.steps.items():
        is_hit = any(above not in ran or schedule.steps[above].state is State.FAILED for above in needs[name])
        assert (step.state is State.BLOCKED) == (name not in ran) == is_hit


def test_failure_names_all_that_it_blocks():
    schedule = Schedule.of({"a": [], "b": ["a"], "c": ["b"], "d": []}, rank=str)
    assert schedule.settle("a", State.FAILED, "why") == ["b", "c"]
    assert {step.reason for step in schedule.steps.values()} == {"why", "a failed", ""}
    assert schedule.ready() == ["d"]
    assert schedule.count(State.BLOCKED) == 2
    assert State.WAITING not in SETTLED


def test_steps_left_out_are_taken_to_be_in_place():
    assert Schedule.of({"b": ["a"]}, rank=str).ready() == ["b"]


def matrix(**changes):
    return params.load(PARAMS, **changes)


def timing(name, student, method, seconds, epochs=18):
    return Timing(name=name, card="", student=student, method=method, epochs=epochs, images_per_second=1.0,
                  seconds=seconds, bytes=1000, device="cpu", threads=1, finished="2026-01-01T00:00:00")  # fmt: skip


def test_estimates_prefer_the_same_cell_then_its_method_then_its_student():
    one, two = [cell for cell in matrix().cells() if (cell.student, cell.method) == ("resnet8", "kd")][:2]
    other = next(cell for cell in matrix().cells() if (cell.student, cell.method) == ("resnet8", "dkd"))
    unknown = next(cell for cell in matrix().cells() if cell.student == "wrn_16_1")
    found = Estimates([timing(one.name, "resnet8", "kd", 18.0), timing("x", "resnet8", "kd", 36.0),
                       timing("y", "resnet8", "at", 360.0)])  # fmt: skip
    assert found.seconds(one, 36) == pytest.approx(36.0)
    assert found.seconds(two, 36) == pytest.approx(54.0)  # median of 1 and 2 seconds per epoch
    assert found.seconds(other, 18) == pytest.approx(36.0)  # of 1, 2 and 20
    assert found.seconds(unknown, 18) is None
    assert found.bytes(one) == 1000
    assert found.bytes(unknown) is None


def test_order():
    """Upstream and tables, baselines, then cells; the teacher and the pair with the least work first."""
    found = matrix()
    cells = [f"{cell.stage}@{cell.name}" for cell in found.cells()]
    steps = ["plan", *cells, "tables"]
    slow = [timing(cell.name, cell.student, cell.method, 100.0) for cell in found.cells() if cell.student == "resnet8"]
    fast = [timing(cell.name, cell.student, cell.method, 10.0) for cell in found.cells() if cell.student == "wrn_16_1"]
    ranked = sorted(steps, key=Order(found, Estimates([*slow, *fast]), steps).rank)
    kinds = [step.partition("@")[0] for step in ranked]
    assert kinds == ["plan", "tables", *["baseline"] * 4, *["train"] * 16]
    assert all("wrn_16_1" in step for step in (*ranked[2:4], *ranked[6:14]))
    assert ranked[6:14] == [step for step in cells if step in ranked[6:14]]


def test_shorter_cells_of_a_pair_first():
    found = matrix(pairs=["resnet20-resnet8"], teachers={"resnet20": TRAINED})
    cells = {f"train@{cell.name}": cell for cell in found.cells() if cell.stage == "train"}
    times = {step: 100.0 - number for number, step in enumerate(cells)}
    known = Estimates([timing(cell.name, cell.student, cell.method, times[step]) for step, cell in cells.items()])
    assert sorted(cells, key=Order(found, known, list(cells)).rank) == list(reversed(cells))


def test_threads_wanted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert processes.threads_wanted() is None
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert processes.threads_wanted() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(UserError, match="OMP_NUM_THREADS=many: must be"):
        processes.threads_wanted()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the stages of this project, one more, and a fork server that has imported torch."""
    made = tmp_path_factory.mktemp("jobs")
    shutil.copytree(ROOT / "stages", made / "stages")
    (made / "stages/about_torch.py").write_text(ABOUT_TORCH)
    _forkserver._stop()  # the server of an earlier test in this process has imported other stages
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "PRELOADED", ("kdcore.sweep.processes", "torch"))
        patch.setenv("OMP_NUM_THREADS", "2")
        patch.setattr(processes, "_IMPORTED", [])
        assert processes.prepare({"OMP_NUM_THREADS": "1"}, "code") == "forkserver"
        yield made


ABOUT_TORCH = """import sys


def main():
    print("torch" in sys.modules)
    import torch

    print(torch.get_num_threads(), torch.cuda.is_initialized())
"""


def run(folder, command, *, timeout=None, stopping=None, environment=None, method="forkserver"):
    job = Job("stage@name", command, str(folder), str(folder / "log"), timeout)
    return processes.run(job, environment or {}, (stopping or threading.Event()).is_set, method=method)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_job_that_ends(folder, method):
    command = "sh -c 'echo $COLOUR; pwd; exit 3'"
    outcome = run(folder, command, environment={"COLOUR": "blue"}, method=method)
    assert (outcome.ending, outcome.code, outcome.tail) == (Ending.FAILED, 3, ["blue", str(folder)])
    assert run(folder, "true", method=method).ending is Ending.DONE


def test_a_stage_of_this_project_runs_in_the_process_itself(folder):
    outcome = run(folder, "python -m stages.plan --check nothing.yaml")
    assert outcome.code == 2
    assert outcome.tail[0].startswith("error: data/published.yaml: cannot be read")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_stage_computes_with_the_threads_of_its_slot(folder, method):
    """torch reads their number once, when it is imported, which the fork server has done; it has touched no GPU."""
    outcome = run(folder, "python -m stages.about_torch", environment={"OMP_NUM_THREADS": "1"}, method=method)
    assert outcome.tail == [str(method == "forkserver"), "1 False"], "\n".join(outcome.tail)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_job_that_is_killed(folder, method):
    outcome = run(folder, "python -c 'import os; os.killpg(0, 9)'", method=method)
    assert (outcome.ending, outcome.code) == (Ending.LOST, None)


def test_a_job_leaves_no_processes(folder):
    leave = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    (child,) = run(folder, f'python -c "{leave}"').tail
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(child)) and psutil.Process(int(child)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_job_without_a_sign_of_life(folder):
    outcome = run(folder, "sleep 60", timeout=0.2)
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.seconds < 10


def test_job_that_talks_is_alive(folder):
    assert run(folder, "sh -c 'for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done'", timeout=1.2).ending is Ending.DONE


def test_job_that_is_stopped(folder):
    stopping = threading.Event()
    threading.Timer(0.5, stopping.set).start()
    assert run(folder, "sleep 60", stopping=stopping).ending is Ending.STOPPED


def test_job_whose_log_cannot_be_reached_goes_on(folder):
    """As for a moment on a network: whatever the system answers, the stage may be well."""
    (folder / "file").touch()
    job = Job("stage@name", "true", str(folder / "file"), str(folder / "file/log"), 60)
    assert processes._due(job, time.time(), lambda: False) is None
    assert processes.tail(Path(job.log)) == []


def test_nobody_watches_a_job_and_it_ends(folder, monkeypatch):
    """An error that nobody foresaw leaves no stage behind that trains on."""
    monkeypatch.setattr(processes, "_due", lambda *_: 1 / 0)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run(folder, "sleep 60")
    assert time.monotonic() - began < 30


def test_a_stage_of_the_sweep_whose_watch_fails_has_failed(monkeypatch):
    crew = Crew.__new__(Crew)
    crew.ended, crew.pending, crew.environment, crew.method = queue.SimpleQueue(), {}, {}, "spawn"
    monkeypatch.setattr(crews, "run", lambda *_, **__: 1 / 0)
    with ThreadPoolExecutor() as crew.here:
        crew.stopping = threading.Event()
        crew.run_here(Job("data", "true", ".", "log"))
        (delivery,) = crew.finished(10)
    assert (delivery.outcome.step, delivery.outcome.ending) == ("data", Ending.FAILED)
    assert delivery.outcome.tail == ["ZeroDivisionError: division by zero"]


def test_job_that_does_not_listen_is_killed(folder, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    outcome = run(
        folder, "python -c 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)'", timeout=0.2
    )
    assert outcome.ending is Ending.TIMED_OUT
    assert outcome.seconds < 20


def fork_servers():
    return [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]


def test_the_fork_server_ignores_what_a_terminal_sends_and_is_replaced_when_it_is_killed(folder):
    assert run(folder, "true").ending is Ending.DONE
    (server,) = fork_servers()
    for number in processes.SHIELDED:
        server.send_signal(number)
    assert run(folder, "true").ending is Ending.DONE
    assert fork_servers() == [server]
    killer = threading.Timer(1, server.kill)
    killer.start()
    assert run(folder, "sleep 60").ending is Ending.LOST, "nobody knows its exit code"
    assert run(folder, "true").ending is Ending.DONE
    assert len(fork_servers()) == 1


def test_other_code_or_threads_than_the_fork_server_has_get_fresh_interpreters(folder):
    """A Dask worker may serve a sweep, then another after an edit of the code."""
    assert processes.prepare({"OMP_NUM_THREADS": "1"}, "code") == "forkserver"
    assert processes.prepare({"OMP_NUM_THREADS": "2"}, "code") == "spawn"
    assert processes.prepare({"OMP_NUM_THREADS": "1"}, "other code") == "spawn"


def test_many_jobs_at_a_time_end_with_their_own_exit_codes(folder):
    """Though multiprocessing looks at all of them whenever it starts one."""
    with ThreadPoolExecutor(8) as pool:
        codes = [number % 60 for number in range(64)]
        outcomes = pool.map(lambda number: run_quietly(folder, number), codes)
    assert [outcome.code for outcome in outcomes] == codes


def run_quietly(folder, code):
    job = Job(f"stage@{code}", f"sh -c 'exit {code}'", str(folder), str(folder / f"log{code}"))
    return processes.run(job, {}, lambda: False)


def test_a_worker_that_has_imported_other_code_gets_nothing(tmp_path):
    """It was started outside of any clone; what it computes would be of the code that it has imported."""
    (tmp_path / "token").touch()
    (tmp_path / "kdcore").symlink_to(ROOT / "kdcore")
    joining = Joining(str(tmp_path), "token", code_of(tmp_path), slots_per_gpu=1, threads=None, name=f"{PLUGIN}test")
    elsewhere = tmp_path / "elsewhere"
    assert joining._find(elsewhere, Slots([{}])).trouble == "", "the same code at another place"
    (tmp_path / "kdcore").unlink()
    (tmp_path / "kdcore").mkdir()
    (tmp_path / "kdcore/__init__.py").write_text("edited = True\n")
    trouble = joining._find(elsewhere, Slots([{}])).trouble
    assert trouble.startswith(f"it has imported other code than that of {tmp_path}, from {ROOT}: start the worker in ")


def test_workers_that_join_are_not_profiled(tmp_path):
    with clusters.here(1) as client:
        (callback,) = client.run(lambda dask_worker: dask_worker.periodic_callbacks["profile"]).values()
        assert callback.is_running()
        client.register_plugin(Joining(str(tmp_path), "token", "", slots_per_gpu=1, threads=None, name=f"{PLUGIN}test"))
        assert not callback.is_running()
        (left,) = client.run(lambda dask_worker: list(dask_worker.periodic_callbacks)).values()
    assert not {"profile", "profile-cycle"} & set(left)


def test_tail(tmp_path):
    log = tmp_path / "log"
    assert processes.tail(log) == []
    log.write_text("\n".join(str(number) for number in range(10_000)))
    assert processes.tail(log, 3) == ["9997", "9998", "9999"]


def test_journal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert journal.read() is None
    assert not journal.is_running()
    with journal.idle() as is_idle:
        assert is_idle
        assert journal.is_running()
    with journal.opened() as diary, journal.idle() as is_idle:
        assert not is_idle
        diary.steps = Schedule.of({"a": [], "b": ["a"]}, rank=str).steps
        diary.write()
        assert journal.is_running()
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), journal.opened():
            pass
    assert not journal.is_running()
    journal.LOCK.chmod(0o444)
    assert not journal.is_running()
    assert journal.read() == diary
    before = journal.FILE.stat().st_ino  # another file takes its place where something has changed
    diary.write()
    assert journal.FILE.stat().st_ino == before
    diary.ended = 12.0
    diary.write()
    assert journal.FILE.stat().st_ino != before
    assert journal.read() == diary
    journal.FILE.write_text(json.dumps({"pid": 1}))
    with pytest.raises(UserError, match="is damaged"):
        journal.read()
    assert time.time() - diary.started < 60


def test_waiting_is_said_again_after_growing_pauses(monkeypatch):
    clock = SimpleNamespace(now=5000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(display, "time", clock)
    said = []
    waiting = display.Waiting(said.append)
    waiting.note(False, list)
    times = []
    for second in range(0, 6 * 3600, 10):
        clock.now = 5000.0 + second
        before = len(said)
        waiting.note(True, lambda: ["why"])
        times += [second] * (len(said) - before)
    assert times == [0, 60, 120, 240, 480, 960, 1920, 3840, 7440, 11040, 14640, 18240]
    assert said[:3] == [
        "waiting for workers\nwhy",
        "still waiting for workers, for 1 min now\nwhy",
        "still waiting for workers, for 2 min now\nwhy",
    ]
    waiting.note(False, list)
    waiting.note(True, list)
    assert said[-1] == "waiting for workers"
