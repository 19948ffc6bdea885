"""How far a matrix is, as seen from elsewhere, and on the screen of the sweep itself."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from io import StringIO
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cell import RUNS, Cell
from kdcore.sweep import journal, status
from kdcore.sweep.display import Screen, pulse_of, time_left
from kdcore.sweep.journal import Journal
from kdcore.sweep.schedule import State, Step
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, write_json
from kdcore.training.pulse import Pulse, pulse_file, pulses
from kdcore.training.timings import FILE as TIMINGS
from kdcore.training.timings import Timing
from tests import sweeps

PAIR = "resnet14-resnet8"
EPOCHS = 3
HERE = platform.node()
NOBODY = 2**22 + 1
"""No process has this number."""
CELLS = [Cell(PAIR, "vanilla", 0), Cell(PAIR, "kd", 0, 1, False), Cell("resnet20-resnet8", "kd", 0, 2, True)]
STEPS = [f"{cell.stage}@{cell.name}" for cell in CELLS]
KD = STEPS[1]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the plan of three cells and a teacher, nothing run."""
    monkeypatch.chdir(tmp_path)
    for cell in CELLS:
        yamlfile.write(CARDS / cell.stage / f"{cell.name}.yaml", card_of(cell))
    teacher = {"name": "resnet14", "student": "resnet14", "seed": 0, "method": "vanilla", "train": {"epochs": EPOCHS}}
    yamlfile.write(CARDS / "teacher" / "resnet14.yaml", teacher)
    for path in CARDS.rglob("*.yaml"):
        os.utime(path, (1e9, 1e9))
    return tmp_path


def card_of(cell):
    scale = {} if cell.scale is None else {"scale": cell.scale, "stand": cell.stand}
    identity = {"name": cell.name, "pair": cell.pair, "student": cell.student, "method": cell.method, "seed": cell.seed}
    return {**identity, **scale, "train": {"epochs": EPOCHS}}


def finish(cell, epochs=EPOCHS, **changes):
    folder = RUNS / cell.pair / cell.name
    folder.mkdir(parents=True)
    write_json(folder / "meta.json", {**card_of(cell), "commit": "abc", **changes})
    (folder / "weights.safetensors").write_text("x")
    (folder / "history.csv").write_text("\n".join(["epoch,test_top1", *(f"{n},50.0" for n in range(epochs))]))
    return folder


def pulse(cell=CELLS[1], **changes):
    """The pulse of a cell that is measured just now by this process."""
    content = {
        "name": cell.name, "epoch": 1, "epochs": EPOCHS, "loss": 2.5, "test_top1": 12.5, "images_per_second": 1234.5,
        "seconds_left": 90.0, "pid": os.getpid(), "host": HERE, "updated": time.time(),
    } | changes  # fmt: skip
    path = pulse_file(cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return Pulse(**content)


def diary(*steps, **changes):
    content = {"command": "python -m stages.sweep", "pid": os.getpid(), "host": HERE, "started": time.time() - 100}
    made = Journal(**{**content, "steps": {step.name: step for step in steps}, **changes})
    made.write()
    return made


def seen():
    return {one.step: one for one in status.collect().steps}


def states():
    return {name: one.state for name, one in seen().items()}


# Without a sweep


def test_without_a_plan_there_is_nothing_to_say(here):
    shutil.rmtree(here / "cards")
    with pytest.raises(UserError, match="there is no plan yet; run 'dvc repro plan'"):
        status.collect()


def test_what_has_not_begun_waits():
    found = status.collect()
    assert states() == dict.fromkeys(["teacher@resnet14", *STEPS], "waiting")
    assert found.sweep is None
    assert found.groups == [PAIR, "resnet20-resnet8", "teachers"]


def test_what_is_done_is_the_whole_result_of_the_present_card():
    finish(CELLS[0])
    assert states()[STEPS[0]] == "done"
    finish(CELLS[1], train={"epochs": EPOCHS + 1})
    assert states()[STEPS[1]] == "waiting", "of another card"
    finish(CELLS[2], epochs=EPOCHS - 1)
    assert states()[STEPS[2]] == "waiting", "an epoch is missing"
    (CELLS[0].folder / "weights.safetensors").unlink()
    assert states()[STEPS[0]] == "waiting"
    (CELLS[0].folder / "meta.json").write_text("{")
    assert states()[STEPS[0]] == "waiting"


def test_what_another_teacher_taught_waits_to_be_trained_again(here):
    teacher = here / "teachers/resnet14/weights.safetensors"
    teacher.parent.mkdir(parents=True)
    teacher.write_text("before")
    finish(CELLS[1], made_from={"teacher": file_sha256(teacher)})
    assert states()[STEPS[1]] == "done"
    teacher.write_text("after")
    found = seen()[STEPS[1]]
    assert (found.state, found.reason) == ("waiting", "the weights of its teacher resnet14 are others since")


@pytest.mark.parametrize(
    ("age", "changes", "state"),
    [
        (0, {}, "running"),
        (5, {"pid": NOBODY}, "running"),
        (20, {"pid": NOBODY}, "waiting"),
        (3600, {}, "running"),
        (3600, {"host": "elsewhere"}, "waiting"),
        (20, {"pid": NOBODY, "host": "elsewhere"}, "running"),
    ],
    ids=["just now", "killed just now", "killed", "measures", "killed elsewhere", "elsewhere"],
)
def test_a_pulse_counts_while_it_is_fresh_or_its_process_lives(age, changes, state, monkeypatch):
    """The pulse is written now; the clock then goes on, for no process need be older than this test."""
    pulse(**changes)
    later = SimpleNamespace(time=lambda: time.time() + age)
    monkeypatch.setattr(status, "time", later)
    found = seen()[KD]
    assert found.state == state
    if state == "running":
        assert (found.epoch, found.epochs, found.loss, found.test_top1) == (1, EPOCHS, 2.5, 12.5)
        assert found.images_per_second == 1234.5
        assert found.seconds_left == pytest.approx(max(0, 90 - age), abs=5)
    else:
        assert found.reason == f"interrupted after epoch 1 of {EPOCHS}"


def test_a_process_that_is_younger_than_the_pulse_is_another_with_its_number():
    pulse(updated=psutil.Process().create_time() - 20)
    assert states()[KD] == "waiting"


def test_a_process_that_nobody_has_buried_lives_no_more():
    child = subprocess.Popen([sys.executable, "-c", ""])
    time.sleep(1)  # it has ended, and is not waited for
    assert not status.is_alive(pulse(pid=child.pid, updated=time.time() - 20))
    child.wait()


def test_an_interruption_of_an_earlier_card_is_forgotten():
    pulse(pid=NOBODY, updated=1e9 - 1)
    assert seen()[KD].reason == ""


def test_a_damaged_pulse_is_skipped(capsys):
    pulse()
    pulse_file("broken").write_text("{")
    assert states()[KD] == "running"
    assert "broken.json: is damaged and skipped" in capsys.readouterr().err


@given(st.lists(st.sampled_from(status.STATES), max_size=30), st.lists(st.sampled_from("abc"), min_size=30))
def test_counts_add_up(states, groups):
    steps = [status.StageStatus(str(n), groups[n], state) for n, state in enumerate(states)]
    found = status.Status(None, steps, None)
    assert sum(found.counts().values()) == len(states)
    for state in status.STATES:
        assert found.counts()[state] == sum(found.counts(group)[state] for group in found.groups)


# With a sweep, and after one


def test_while_a_sweep_is_at_work_it_has_the_word(here):
    finish(CELLS[0])
    failed = Step(STEPS[2], (), State.FAILED, reason="failed (exit code 1)", started=time.time())
    others = [Step("plan", (), State.UP_TO_DATE), Step("tables", (), State.BLOCKED, reason=f"{STEPS[2]} failed")]
    journal.log(STEPS[2]).parent.mkdir(parents=True)
    journal.log(STEPS[2]).write_text("\n".join(f"line {n}" for n in range(100)))
    with journal.opened():
        made = diary(
            *others,
            Step(STEPS[0], (), State.WAITING),
            Step(KD, (), State.RUNNING, started=time.time() - 1),
            failed,
            dashboard="http://x/status",
        )
        pulse()
        found = status.collect()
        assert states() == {
            "teacher@resnet14": "waiting", STEPS[0]: "waiting", KD: "running", STEPS[2]: "failed", "plan": "done",
            "tables": "blocked",
        }  # fmt: skip
        assert found.groups[-2:] == ["teachers", "other stages"]
        assert found.sweep.state == "running"
        assert (found.sweep.pid, found.sweep.dashboard) == (made.pid, "http://x/status")
        shutil.rmtree(here / "cards")
        assert states()[KD] == "running", "the plan is just made anew"
    assert seen_log(found, STEPS[2])[-1] == "line 99"
    assert len(seen_log(found, STEPS[2])) == 20


def seen_log(found, name):
    return next(one.log for one in found.steps if one.step == name)


def test_a_pulse_of_an_earlier_attempt_is_none_of_this_one():
    step = Step(KD, (), State.RUNNING, started=time.time())
    found = {CELLS[1].name: pulse(updated=time.time() - 10)}
    assert pulse_of(step, found) is None
    elsewhere = {CELLS[1].name: pulse(updated=time.time() - 10, host="elsewhere")}
    assert pulse_of(step, elsewhere) is not None, "clocks differ"
    assert pulse_of(replace(step, started=time.time() - 20), found) is not None
    assert pulse_of(Step("tables", (), State.RUNNING), found) is None


def test_how_the_last_sweep_ended():
    steps = [
        Step(STEPS[0], (), State.DONE),
        Step(KD, (), State.FAILED, reason="timed out"),
        Step(STEPS[2], (), State.BLOCKED, reason="teacher@resnet20 failed"),
        Step(f"evaluate@{PAIR}", (), State.FAILED, reason="failed"),
        Step("tables", (), State.BLOCKED, reason="x"),
    ]
    finish(CELLS[0])
    made = diary(*steps, ended=time.time() - 50)
    found = status.collect()
    assert found.sweep.state == "ended"
    assert found.sweep.counts == {"done": 1, "failed": 2, "blocked": 2}
    assert found.counts() == {"done": 1, "running": 0, "waiting": 1, "failed": 2, "blocked": 2}
    assert seen()[KD].reason == "timed out"
    pulse()
    assert states()[KD] == "running", "dvc repro is at it again"
    pulse_file(CELLS[1].name).unlink()
    finish(CELLS[1])
    assert states()[KD] == "done"
    os.makedirs(f"evaluations/{PAIR}")
    os.makedirs("tables")
    assert not {f"evaluate@{PAIR}", "tables"} & states().keys(), "they have been made since"
    replace(made, ended=None).write()
    assert status.collect().sweep.state == "killed"


def test_a_failure_goes_before_a_pulse_that_is_older():
    """Though the pulse is fresh: a stage that fails leaves it."""
    pulse()
    diary(Step(KD, (), State.FAILED, reason="no memory", started=time.time(), seconds=1.0), ended=time.time())
    assert (states()[KD], seen()[KD].reason) == ("failed", "no memory")


def test_a_sweep_that_was_killed_leaves_what_it_was_at():
    diary(Step(KD, (), State.RUNNING, started=time.time() - 60), Step(STEPS[0], (), State.STOPPED))
    pulse(pid=NOBODY, updated=time.time() - 30)
    found = seen()
    assert (found[KD].state, found[KD].reason) == ("waiting", f"interrupted after epoch 1 of {EPOCHS}")
    assert (found[KD].epoch, found[KD].epochs) == (1, EPOCHS)
    assert found[STEPS[0]].state == "waiting"


@pytest.mark.parametrize("changes", [None, {"ended": 1.0}, {"pid": NOBODY}], ids=["none", "ended", "killed"])
def test_a_sweep_that_has_just_begun_is_not_the_one_before(changes, capsys):
    with journal.opened():
        if changes is not None:
            diary(Step(KD, (), State.FAILED), **changes)
        found = status.collect()
    assert found.sweep.state == "beginning"
    assert states()[KD] != "done"
    found.show(Console())
    assert capsys.readouterr().out.startswith("a sweep has just begun here")


def test_a_damaged_journal_is_said_to_be():
    diary()
    journal.FILE.write_text("{")
    with pytest.raises(UserError, match=r"journal.json: is damaged .* delete it"):
        status.collect()


# What is shown


def test_json_has_these_keys():
    with journal.opened():
        diary(Step(KD, (), State.RUNNING, started=time.time() - 1))
        pulse()
        found = json.loads(json.dumps(status.collect().record()))
    assert list(found) == ["sweep", "seconds_left", "counts", "groups", "steps"]
    assert list(found["sweep"]) == [
        "state", "command", "pid", "host", "started", "ended", "dashboard", "counts"
    ]  # fmt: skip
    assert list(found["counts"]) == ["done", "running", "waiting", "failed", "blocked"]
    assert found["groups"][PAIR] == {"done": 0, "running": 1, "waiting": 1, "failed": 0, "blocked": 0}
    for one in found["steps"]:
        assert list(one) == [
            "step", "group", "state", "reason", "epoch", "epochs", "loss", "test_top1", "images_per_second",
            "seconds_left", "host", "log",
        ]  # fmt: skip


def test_a_person_sees_counts_what_runs_and_why_it_failed():
    journal.log(STEPS[2]).parent.mkdir(parents=True)
    journal.log(STEPS[2]).write_text("loss is [nan]\n")
    finish(CELLS[0])
    pulse()
    diary(Step(STEPS[2], (), State.FAILED, reason="failed (exit code 1)"), ended=time.time())
    out = StringIO()
    status.collect().show(Console(file=out, width=160))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[0].startswith("no sweep is at work; the last one ended ")
    assert f"{PAIR} 1 1 2" in lines
    assert "in all 1 1 1 1 4" in lines
    assert f"{KD} 1/{EPOCHS} 2.500 12.50% 1,234 2 min {HERE}" in lines
    assert f"failed: {STEPS[2]}: failed (exit code 1)" in lines
    assert "loss is [nan]" in lines


def test_the_time_that_is_left_is_estimated_from_earlier_trainings():
    assert status.collect().seconds_left is None
    made = Timing("x", "", "resnet8", "kd", 10, 1.0, 100.0, 1, "cpu", 1, "2026-01-01T00:00:00+00:00")
    TIMINGS.parent.mkdir(exist_ok=True)
    TIMINGS.write_text(f"{json.dumps(asdict(made))}\n")
    assert status.collect().seconds_left is None, "nobody knows about the teacher"
    TIMINGS.write_text("".join(f"{json.dumps(asdict(replace(made, student=f'resnet{n}')))}\n" for n in (8, 14)))
    assert status.collect().seconds_left == pytest.approx(4 * 10 * EPOCHS)
    pulse(seconds_left=5.0)
    assert status.collect().seconds_left == pytest.approx(3 * 10 * EPOCHS + 5, abs=1)


def test_it_starts_without_what_is_slow(python):
    slow = "('torch', 'dask', 'distributed', 'dvc', 'pandas')"
    assert python(f"import sys, stages.status; print([name for name in {slow} if name in sys.modules])") == "[]\n"


@given(st.lists(st.floats(0, 1e6), max_size=9), st.lists(st.floats(0, 1e6), max_size=9), st.integers(1, 9))
def test_time_left_lies_between_what_jobs_could_reach_and_one_after_another(waiting, running, jobs):
    left = time_left(waiting, running, jobs)
    if not waiting and not running:
        assert left is None
        return
    assert max([0.0, *running]) <= left <= sum([*waiting, *running]) * (1 + 1e-9)
    assert time_left([*waiting, None], running, jobs) is None
    assert time_left(waiting, [*running, None], jobs) is None
    assert time_left(waiting, running, jobs + 1) <= left


# The sweep's own screen


def screen(*steps, **options):
    out = StringIO()
    made = Journal("python -m stages.sweep", os.getpid(), HERE, time.time() - 65)
    made.steps = {step.name: step for step in steps}
    return Screen(made, Console(file=out, width=120, height=30, **options)), out


def test_outside_a_terminal_there_are_lines_alone():
    shown, out = screen(Step(KD, (), State.RUNNING))
    with shown:
        shown.update()
        shown.say("one [bold]\ntwo " + "x" * 200)
        shown.update()
    assert out.getvalue() == "one [bold]\ntwo " + "x" * 200 + "\n"


def test_in_a_terminal_what_runs_is_shown():
    running = [Step(KD, (), State.RUNNING, started=time.time() - 10), Step("tables", (), State.RUNNING)]
    shown, _ = screen(*running, Step("a", (), State.UP_TO_DATE), Step("b", (), State.WAITING), force_terminal=True)
    shown.journal.dashboard = "http://x/status"
    pulse()
    out = Console(file=StringIO(), width=120)
    out.print(shown.view())
    lines = [" ".join(line.split()) for line in out.file.getvalue().splitlines()]
    assert lines[0].startswith("1 done, 2 running, 1 waiting, 2 min so far")
    assert lines[1] == f"{KD} epoch 1/{EPOCHS} loss 2.500 1,234 images/s 2 min left {HERE}"
    assert lines[2].startswith("tables for")
    assert lines[3] == "Dask's page: http://x/status"


def test_the_time_left_comes_from_estimates_or_from_what_this_sweep_took():
    waiting = [Step(f"train@{n}", (), State.WAITING) for n in range(4)]
    shown, _ = screen(*waiting, Step("tables", (), State.WAITING))
    assert "left" not in shown._summary({}) or "about 0 s left" in shown._summary({})
    shown.seconds = {step.name: 30.0 for step in waiting}
    assert "about 2 min left" in shown._summary({})
    shown.seconds = {step.name: None for step in waiting}
    assert "left" not in shown._summary({})
    shown.journal.steps["train@done"] = Step("train@done", (), State.DONE, seconds=60.0)
    assert "about 4 min left" in shown._summary({})


def test_it_is_drawn_four_times_a_second_at_most(monkeypatch):
    shown, _ = screen(Step(KD, (), State.RUNNING), force_terminal=True)
    now, drawn = [100.0], []
    monkeypatch.setattr("kdcore.sweep.display.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(shown.live, "update", lambda *_, **__: drawn.append(now[0]))
    with shown:
        for now[0] in [100 + step / 64 for step in range(65)]:
            shown.update()
    assert drawn == [100.0, 100.25, 100.5, 100.75, 101.0]


def test_a_damaged_pulse_is_said_once_and_stops_nothing():
    shown, out = screen(Step(KD, (), State.RUNNING), force_terminal=True)
    pulse()
    pulse_file("broken").write_bytes(b"\xff{")
    pulse_file("folder").mkdir()
    with shown:
        for _ in range(3):
            shown.view()
    assert out.getvalue().count("broken.json: is damaged and skipped") == 1
    assert out.getvalue().count("folder.json: cannot be read and is skipped") == 1
    assert CELLS[1].name in pulses(lambda text: None)


def test_a_kill_leaves_the_cursor_where_it_was():
    shown, out = screen(Step(KD, (), State.RUNNING), force_terminal=True)
    with shown:
        shown.update()
        controls = out.getvalue()
    assert controls.rfind("\x1b[?25h") > controls.rfind("\x1b[?25l")


# From another terminal


@pytest.mark.pipeline
def test_a_sweep_seen_from_another_terminal(tmp_path):
    project = sweeps.make(tmp_path / "project")
    first, second = sweeps.cell("kd", 1), sweeps.cell("dkd", 2)
    project.behave(**{first: "hang", second: "fail"})

    def look():
        return json.loads(project.run("python", "-m", "stages.status", "--json"))

    with project.sweeping("--jobs", "2") as process:
        project.wait_for(lambda: first in project.ran and project.said().count("failed") >= 1)
        found = look()
        assert found["sweep"]["state"] == "running"
        assert found["sweep"]["pid"] == process.pid
        of = {one["step"]: one for one in found["steps"]}
        assert of[f"train@{first}"]["state"] == "running"
        failed = of[f"train@{second}"]
        assert failed["state"] == "failed"
        assert failed["log"][0] == f"{second} begins"
        assert f"{second} was told to fail" in failed["log"][-1]
        assert of["tables"]["state"] == "blocked"
        text = project.run("python", "-m", "stages.status")
        assert f"a sweep is at work: 'python -m stages.sweep --jobs 2', process {process.pid}" in text
        assert "was told to fail" in text
        assert sweeps.stop(process) == 128 + signal.SIGTERM
    found = look()
    assert found["sweep"]["state"] == "ended"
    assert found["sweep"]["counts"]["failed"] == 1
    assert found["groups"][sweeps.PAIR]["failed"] == 1
    project.behave()
    project.sweep("--jobs", "2")
    found = look()
    assert found["counts"] == {"done": 6, "running": 0, "waiting": 0, "failed": 0, "blocked": 0}
