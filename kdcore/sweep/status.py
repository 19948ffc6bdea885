"""How far the matrix is, for whoever looks from elsewhere: of files alone, whether a sweep is at work, `dvc repro`, or
nothing at all.

While a sweep is at work its journal says what becomes of every stage. Otherwise a cell or teacher is done where its
folder holds the whole result of its present card; what a replaced data set or teacher makes stale, DVC alone can tell.
"""

import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from kdcore.catalog import VANILLA
from kdcore.matrix.cards import CARDS, Card
from kdcore.matrix.cell import RUNS, Cell
from kdcore.sweep import journal
from kdcore.sweep.display import beat, duration, time_left
from kdcore.sweep.journal import Journal
from kdcore.sweep.processes import tail
from kdcore.sweep.schedule import GOOD, Estimates, State, Step
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import run_folder, timings
from kdcore.training.pulse import Pulse, pulses

STATES = ("done", "running", "waiting", "failed", "blocked")
TRAININGS = ("teacher", "baseline", "train")
"""Stages whose results say from which card they were made, in the order of a serial run."""
TEACHERS, OTHERS = "teachers", "other stages"
FRESH_HERE, FRESH_ELSEWHERE = 15.0, 120.0
"""Seconds after which a pulse is old, where no process is seen that goes on: of this host, whose containers may hide
theirs; of others, which may be measuring their networks.
"""
SHOWN = 10
"""Lines of a log, and stages of a list, that a person sees."""


@dataclass(frozen=True)
class Seen:
    """One stage."""

    step: str
    """As DVC names it."""
    group: str
    """The cell's pair, `TEACHERS` or `OTHERS`."""
    state: str
    """One of `STATES`."""
    reason: str = ""
    """Why it failed or is blocked; of one that waits, where it was interrupted."""
    epoch: int | None = None
    """The last finished one of what runs or was interrupted; as all below, None where nothing is known."""
    epochs: int | None = None
    loss: float | None = None
    test_top1: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    host: str = ""
    log: list[str] = field(default_factory=list)
    """The last lines of one that failed."""


@dataclass(frozen=True)
class Sweeping:
    """The sweep that is at work, or the last one."""

    state: str
    """running; ended; killed; or beginning, as long as it has not said what it is."""
    command: str = ""
    pid: int | None = None
    host: str = ""
    started: float | None = None
    """Unix time."""
    ended: float | None = None
    dashboard: str = ""
    """Address of Dask's page."""
    counts: dict[str, int] = field(default_factory=dict)
    """Its stages, by their states."""


@dataclass(frozen=True)
class Status:
    """Of the matrix."""

    sweep: Sweeping | None
    """None where there was none."""
    steps: list[Seen]
    seconds_left: float | None
    """Until all trainings are done, as many at a time as now; None where that is not known."""

    def counts(self, group: str | None = None) -> dict[str, int]:
        """Stages of a group, or all of them, by state."""
        found = Counter(seen.state for seen in self.steps if group in (None, seen.group))
        return {state: found[state] for state in STATES}

    @property
    def groups(self) -> list[str]:
        """Pairs, then the rest."""
        found = dict.fromkeys(seen.group for seen in self.steps)
        rest = [group for group in (TEACHERS, OTHERS) if group in found]
        return [*(group for group in found if group not in rest), *rest]

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "sweep": self.sweep and asdict(self.sweep),
            "seconds_left": self.seconds_left,
            "counts": self.counts(),
            "groups": {group: self.counts(group) for group in self.groups},
            "steps": [asdict(seen) for seen in self.steps],
        }

    def show(self, console: Console) -> None:
        """For people."""
        console.print(_of_sweep(self.sweep), soft_wrap=True, markup=False)
        table = Table("", *STATES, "in all", box=None, pad_edge=False, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        for group in self.groups:
            table.add_row(group, *_numbers(self.counts(group)))
        if len(self.groups) > 1:
            table.add_row("in all", *_numbers(self.counts()))
        console.print("", table, sep="\n")
        running = [seen for seen in self.steps if seen.state == "running"]
        if running:
            table = Table("running", "epoch", "loss", "test", "images/s", "left", "on", box=None, pad_edge=False)
            for seen in running:
                table.add_row(seen.step, *_progress(seen), seen.host)
            console.print("", table, sep="\n")
        console.print(*self._lists(), sep="\n", soft_wrap=True, markup=False)

    def _lists(self) -> Iterator[str]:
        """What failed, what was interrupted, and when all will be done."""
        failed = [seen for seen in self.steps if seen.state == "failed"]
        for seen in failed[:SHOWN]:
            yield f"\nfailed: {seen.step}: {seen.reason}"
            yield from (f"    {line}" for line in seen.log[-SHOWN:])
        interrupted = [seen for seen in self.steps if seen.state == "waiting" and seen.reason]
        yield from ([""] if interrupted else [])
        yield from (f"waiting: {seen.step}: {seen.reason}" for seen in interrupted[:SHOWN])
        for what, found in (("failed", failed), ("waiting", interrupted)):
            if len(found) > SHOWN:
                yield f"and {len(found) - SHOWN} more {what}, see --json"
        if self.seconds_left is not None:
            yield f"\nabout {duration(self.seconds_left)} of training left"


def collect() -> Status:
    """Read the journal, the cards, the results and the pulses.

    Raises:
        UserError: there is no plan, or a file is damaged.
    """
    at_work, diary = journal.is_running(), journal.read()
    if at_work and not _is_of_now(diary):
        diary = None
    said = {} if diary is None else diary.steps
    names = [f"{path.parent.name}@{path.stem}" for stage in TRAININGS for path in _cards(stage)]
    if not names and not (at_work and said):
        raise UserError(f"{CARDS}: there is no plan yet; run 'dvc repro plan' or 'python -m stages.sweep'")
    cards = {name: yamlfile.read_written(_card(name)) for name in names}
    found = pulses()
    steps = []
    for name in {**cards, **said}:
        step = said.get(name)
        if name in cards and not (at_work and step is not None):
            steps.append(_as_found(name, cards[name], step, found))
        elif step is not None and (at_work or _is_open(step, diary)):
            steps.append(_as_said(step, found))
    return Status(_sweep(diary, at_work), steps, _time_left(steps, cards))


def _cards(stage: str) -> list[Path]:
    return sorted((CARDS / stage).glob("*.yaml"))


def _card(step: str) -> Path:
    stage, _, name = step.partition("@")
    return CARDS / stage / f"{name}.yaml"


def _is_of_now(diary: Journal | None) -> bool:
    """Whether a journal is that of the sweep that is at work, which writes its own only when it knows its stages."""
    if diary is None or diary.ended is not None:
        return False
    return diary.host != platform.node() or psutil.pid_exists(diary.pid)


def _as_said(step: Step, found: dict[str, Pulse]) -> Seen:
    """A stage as the journal has it."""
    seen = Seen(step.name, _group(step.name), _word(step.state), step.reason)
    if step.state is State.RUNNING:
        return _with_pulse(seen, beat(step, found), step.worker)
    if step.state is State.FAILED:
        return replace(seen, log=tail(journal.log(step.name)))
    return seen


def _word(state: State) -> str:
    if state in GOOD:
        return "done"
    return "waiting" if state is State.STOPPED else state.value


def _as_found(name: str, card: Card, step: Step | None, found: dict[str, Pulse]) -> Seen:
    """A training as its files have it; what they do not say, the last sweep may."""
    pulse = found.get(card["name"])
    seen = Seen(name, _group(name), "waiting")
    if pulse is not None and is_alive(pulse):
        return _with_pulse(replace(seen, state="running"), pulse)
    if is_done(card):
        return replace(seen, state="done")
    if step is not None and step.state in (State.FAILED, State.BLOCKED):
        return _as_said(step, found)
    if pulse is not None and pulse.updated >= _card(name).stat().st_mtime:
        reason = f"interrupted after epoch {pulse.epoch} of {pulse.epochs}"
        return replace(seen, reason=reason, epoch=pulse.epoch, epochs=pulse.epochs)
    return seen


def is_alive(pulse: Pulse) -> bool:
    """Whether a run that left this pulse goes on."""
    is_here = pulse.host == platform.node()
    if time.time() - pulse.updated < (FRESH_HERE if is_here else FRESH_ELSEWHERE):
        return True
    if not is_here:
        return False
    try:
        process = psutil.Process(pulse.pid)
        is_same = process.create_time() <= pulse.updated  # numbers of processes are given away again
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_done(card: Card) -> bool:
    """Whether there is a whole result of a card."""
    folder = RUNS / card["pair"] / card["name"] if "pair" in card else Path("teachers") / card["name"]
    if not (folder / run_folder.META).is_file():
        return False
    try:
        run_folder.check(folder, card)
    except UserError:
        return False
    return True


def _with_pulse(seen: Seen, pulse: Pulse | None, worker: str = "") -> Seen:
    if pulse is None:
        return replace(seen, host=worker)
    left = None if pulse.seconds_left is None else max(0.0, pulse.seconds_left - (time.time() - pulse.updated))
    return replace(
        seen,
        epoch=pulse.epoch,
        epochs=pulse.epochs,
        loss=pulse.loss,
        test_top1=pulse.test_top1,
        images_per_second=pulse.images_per_second,
        seconds_left=left,
        host=worker or pulse.host,
    )


def _group(step: str) -> str:
    stage, _, name = step.partition("@")
    if stage not in TRAININGS:
        return OTHERS
    return TEACHERS if stage == "teacher" else "-".join(name.split("-")[:2])


def _is_open(step: Step, diary: Journal | None) -> bool:
    """Whether a stage that is no training failed or was blocked in the last sweep, and has made nothing since."""
    stage, _, name = step.name.partition("@")
    folders = {"plan": CARDS, "pairs": Path("pairs"), "tables": Path("tables"), "evaluate": Path("evaluations")}
    if diary is None or step.state not in (State.FAILED, State.BLOCKED):
        return False
    output = folders[stage] / name if stage in folders else None
    return output is None or not output.exists() or output.stat().st_mtime <= (diary.ended or diary.started)


def _time_left(steps: list[Seen], cards: dict[str, Card]) -> float | None:
    """Until all trainings are done, as many at a time as now."""
    estimates = Estimates(timings.load())
    left: dict[str, list[float | None]] = {"waiting": [], "running": []}
    for seen in steps:
        if seen.step in cards and seen.state in left:
            expected = _estimate(cards[seen.step], estimates) if seen.seconds_left is None else seen.seconds_left
            left[seen.state].append(expected)
    return time_left(left["waiting"], left["running"], max(1, len(left["running"])))


def _estimate(card: Card, estimates: Estimates) -> float | None:
    """Seconds of a training; none of a teacher that is not trained here."""
    if "train" not in card:
        return 0.0
    pair, method = card.get("pair", f"{card['name']}-{card['name']}"), card.get("method", VANILLA)
    cell = Cell(pair, method, card["seed"], card.get("scale"), card.get("stand"))
    return estimates.seconds(cell, card["train"]["epochs"])


def _sweep(diary: Journal | None, at_work: bool) -> Sweeping | None:
    if diary is None:
        return Sweeping("beginning") if at_work else None
    state = "running" if at_work else "killed" if diary.ended is None else "ended"
    counts = Counter(step.state.value for step in diary.steps.values())
    return Sweeping(
        state, diary.command, diary.pid, diary.host, diary.started, diary.ended, diary.dashboard, dict(counts)
    )


def _of_sweep(sweep: Sweeping | None) -> str:
    if sweep is None:
        return "no sweep has been at work here"
    if sweep.started is None:
        return "a sweep has just begun here"
    who = f"'{sweep.command}', process {sweep.pid} on {sweep.host}, begun {_clock(sweep.started)}"
    if sweep.state == "running":
        page = f"\nDask's page: {sweep.dashboard}" if sweep.dashboard else ""
        return f"a sweep is at work: {who}, {duration(time.time() - sweep.started)} ago{page}"
    counts = ", ".join(f"{number} {state}" for state, number in sweep.counts.items())
    if sweep.ended is None:
        return f"no sweep is at work; the last one was killed: {who}; {counts}"
    return f"no sweep is at work; the last one ended {_clock(sweep.ended)} with {counts}: {who}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _numbers(counts: dict[str, int]) -> list[str]:
    return [str(number or "") for number in (*counts.values(), sum(counts.values()))]


def _progress(seen: Seen) -> list[str]:
    """Cells of a table."""
    if seen.epochs is None:
        return [""] * 5
    return [
        f"{seen.epoch}/{seen.epochs}",
        "" if seen.loss is None else f"{seen.loss:.3f}",
        "" if seen.test_top1 is None else f"{seen.test_top1:.2f}%",
        f"{seen.images_per_second:,.0f}",
        "" if seen.seconds_left is None else duration(seen.seconds_left),
    ]
