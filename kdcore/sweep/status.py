"""How far the matrix is, read from files alone: whether a sweep is at work, `dvc repro`, or nothing at all.

While a sweep is at work its journal says what becomes of every stage. Otherwise a cell or teacher is done where its
folder holds the whole result of its present card (`run_folder.is_done`), made from the data set and the teacher that
are there now.
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
from kdcore.matrix import robustness_section
from kdcore.matrix.card_files import CARDS
from kdcore.matrix.cards import Card
from kdcore.matrix.cell import RUNS, Cell
from kdcore.matrix.left_out import is_left_out
from kdcore.sweep import journal
from kdcore.sweep.display import duration, pulse_of, time_left
from kdcore.sweep.journal import Journal
from kdcore.sweep.processes import tail
from kdcore.sweep.schedule import GOOD, Estimates, State, Step
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import run_folder, timings
from kdcore.training.made_from import PresentInputs
from kdcore.training.pulse import Pulse, pulses

STATES = ("done", "running", "waiting", "failed", "blocked")
TRAININGS = ("teacher", "baseline", "train")
"""Stages whose results hold the card that they were made from, in the order of a serial run."""
TEACHERS, OTHERS = "teachers", "other stages"
"""Groups of stages that belong to no pair."""
FRESH_HERE, FRESH_ELSEWHERE = 15.0, 120.0
"""Seconds after which a run whose process cannot be seen counts as ended: on this host, where it may be in another
container; on other hosts, where it may be evaluating its network, which takes longer than training steps.
"""
SHOWN = 10
"""The most lines of a log, and stages of a list, that are printed."""


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is; None stands for what is not known."""

    step: str
    """Its name in DVC."""
    group: str
    """The cell's pair, `TEACHERS` or `OTHERS`."""
    state: str
    """One of `STATES`."""
    reason: str = ""
    """Why it failed or is blocked; where it was interrupted, if it waits."""
    epoch: int | None = None
    """The last finished epoch of a stage that runs or was interrupted."""
    epochs: int | None = None
    loss: float | None = None
    test_top1: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    host: str = ""
    log: list[str] = field(default_factory=list)
    """The last lines of its log, if it failed."""


@dataclass(frozen=True)
class SweepStatus:
    """The sweep that is at work, or the last one."""

    state: str
    """running, ended, killed, or beginning: it holds the lock and has not written its journal yet."""
    command: str = ""
    pid: int | None = None
    host: str = ""
    started: float | None = None
    """Unix time."""
    ended: float | None = None
    dashboard: str = ""
    """Address of Dask's page."""
    counts: dict[str, int] = field(default_factory=dict)
    """State -> number of stages."""


@dataclass(frozen=True)
class Status:
    """How far the matrix is."""

    sweep: SweepStatus | None
    """None where there was none."""
    steps: list[StageStatus]
    seconds_left: float | None
    """Until all trainings are done, with as many at a time as now; None where that is not known."""

    def counts(self, group: str | None = None) -> dict[str, int]:
        """Count the stages of a group, or all stages, by state."""
        counter = Counter(stage.state for stage in self.steps if group in (None, stage.group))
        return {state: counter[state] for state in STATES}

    @property
    def groups(self) -> list[str]:
        """The pairs, then `TEACHERS` and `OTHERS` where there are such stages."""
        groups = dict.fromkeys(stage.group for stage in self.steps)
        rest = [group for group in (TEACHERS, OTHERS) if group in groups]
        return [*(group for group in groups if group not in rest), *rest]

    def record(self) -> dict[str, Any]:
        """Return the status as one object for programs."""
        return {
            "sweep": self.sweep and asdict(self.sweep),
            "seconds_left": self.seconds_left,
            "counts": self.counts(),
            "groups": {group: self.counts(group) for group in self.groups},
            "steps": [asdict(stage) for stage in self.steps],
        }

    def show(self, console: Console) -> None:
        """Print the status for people."""
        console.print(_describe_sweep(self.sweep), soft_wrap=True, markup=False)
        table = Table("", *STATES, "in all", box=None, pad_edge=False, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        for group in self.groups:
            table.add_row(group, *_numbers(self.counts(group)))
        if len(self.groups) > 1:
            table.add_row("in all", *_numbers(self.counts()))
        console.print("", table, sep="\n")
        running = [stage for stage in self.steps if stage.state == "running"]
        if running:
            table = Table("running", "epoch", "loss", "test", "images/s", "left", "on", box=None, pad_edge=False)
            for stage in running:
                table.add_row(stage.step, *_progress(stage), stage.host)
            console.print("", table, sep="\n")
        console.print(*self._lists(), sep="\n", soft_wrap=True, markup=False)

    def _lists(self) -> Iterator[str]:
        """Yield lines that say what failed, what was interrupted, and when all will be done."""
        failed = [stage for stage in self.steps if stage.state == "failed"]
        for stage in failed[:SHOWN]:
            yield f"\nfailed: {stage.step}: {stage.reason}"
            yield from (f"    {line}" for line in stage.log[-SHOWN:])
        interrupted = [stage for stage in self.steps if stage.state == "waiting" and stage.reason]
        yield from ([""] if interrupted else [])
        yield from (f"waiting: {stage.step}: {stage.reason}" for stage in interrupted[:SHOWN])
        for state, stages in (("failed", failed), ("waiting", interrupted)):
            if len(stages) > SHOWN:
                yield f"and {len(stages) - SHOWN} more {state}, see --json"
        if self.seconds_left is not None:
            yield f"\nabout {duration(self.seconds_left)} of training left"


def collect() -> Status:
    """Work out the status from the journal, the cards, the results and the pulses.

    Raises:
        UserError: there is no plan, or a file is damaged.
    """
    at_work, diary = journal.is_running(), journal.read()
    if at_work and not _is_of_present_sweep(diary):
        diary = None
    journalled = {} if diary is None else diary.steps
    names = [f"{path.parent.name}@{path.stem}" for stage in TRAININGS for path in _cards(stage)]
    if not names and not (at_work and journalled):
        raise UserError(f"{CARDS}: there is no plan yet; run 'dvc repro plan' or 'python -m stages.sweep'")
    cards = {name: yamlfile.read_written(_card(name)) for name in names}
    others = {name for name, card in cards.items() if is_left_out(card)}
    by_name, now = pulses(), PresentInputs()
    stages = []
    for name in (name for name in {**cards, **journalled} if name not in others):
        step = journalled.get(name)
        if name in cards and not (at_work and step is not None):
            stages.append(_from_files(name, cards[name], step, by_name, now))
        elif step is not None and (at_work or _has_made_nothing_since(step, diary)):
            stages.append(_from_journal(step, by_name))
    return Status(_sweep_status(diary, at_work), stages, _time_left(stages, cards))


def _cards(stage: str) -> list[Path]:
    return sorted((CARDS / stage).glob("*.yaml"))


def _card(step: str) -> Path:
    stage, _, name = step.partition("@")
    return CARDS / stage / f"{name}.yaml"


def _is_of_present_sweep(diary: Journal | None) -> bool:
    """Say whether the journal is of the sweep at work, which writes its own only once it knows its stages."""
    if diary is None or diary.ended is not None:
        return False
    return diary.host != platform.node() or psutil.pid_exists(diary.pid)


def _from_journal(step: Step, by_name: dict[str, Pulse]) -> StageStatus:
    """Describe a stage by what the journal says of it."""
    status = StageStatus(step.name, _group(step.name), _simplified(step.state), step.reason)
    if step.state is State.RUNNING:
        return _with_pulse(status, pulse_of(step, by_name), step.worker)
    if step.state is State.FAILED:
        return replace(status, log=tail(journal.log(step.name)))
    return status


def _simplified(state: State) -> str:
    if state in GOOD:
        return "done"
    return "waiting" if state is State.STOPPED else state.value


def _from_files(name: str, card: Card, step: Step | None, by_name: dict[str, Pulse], now: PresentInputs) -> StageStatus:
    """Describe a training by its pulse and results, or else by how it ended in the last sweep."""
    pulse = by_name.get(card["name"])
    status = StageStatus(name, _group(name), "waiting")
    if step is not None and pulse is not None and _failed_after(step, pulse):
        return _from_journal(step, by_name)
    if pulse is not None and is_alive(pulse):
        return _with_pulse(replace(status, state="running"), pulse)
    if run_folder.is_done(_results(card), card):
        reason = now.changed(run_folder.read_meta(_results(card)))
        return replace(status, reason=reason) if reason else replace(status, state="done")
    if step is not None and step.state in (State.FAILED, State.BLOCKED):
        return _from_journal(step, by_name)
    if pulse is not None and pulse.updated >= _card(name).stat().st_mtime:
        reason = f"interrupted after epoch {pulse.epoch} of {pulse.epochs}"
        return replace(status, reason=reason, epoch=pulse.epoch, epochs=pulse.epochs)
    return status


def _failed_after(step: Step, pulse: Pulse) -> bool:
    """Say whether a sweep saw a stage fail after its run's last sign of life, which may be fresh still."""
    return step.state is State.FAILED and (step.started or 0) + (step.seconds or 0) >= pulse.updated


def _results(card: Card) -> Path:
    """Return the folder of a cell's or teacher's results."""
    return RUNS / card["pair"] / card["name"] if "pair" in card else Path("teachers") / card["name"]


def is_alive(pulse: Pulse) -> bool:
    """Say whether the run that wrote this pulse goes on."""
    is_here = pulse.host == platform.node()
    if time.time() - pulse.updated < (FRESH_HERE if is_here else FRESH_ELSEWHERE):
        return True
    if not is_here:
        return False
    try:
        process = psutil.Process(pulse.pid)
        is_same = process.create_time() <= pulse.updated  # else another process has its number now
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _with_pulse(status: StageStatus, pulse: Pulse | None, worker: str = "") -> StageStatus:
    if pulse is None:
        return replace(status, host=worker)
    left = None if pulse.seconds_left is None else max(0.0, pulse.seconds_left - (time.time() - pulse.updated))
    return replace(
        status,
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


def _has_made_nothing_since(step: Step, diary: Journal | None) -> bool:
    """Say whether a stage that is no training failed or was blocked in the last sweep, and has made nothing since."""
    stage, _, name = step.name.partition("@")
    folders = {"plan": CARDS, "pairs": Path("pairs"), "tables": Path("tables"), "evaluate": Path("evaluations")}
    folders["diagnose"] = Path("evaluations") / "diagnostics"
    if diary is None or step.state not in (State.FAILED, State.BLOCKED):
        return False
    output = folders[stage] / name if stage in folders else None
    if stage == "target":
        output = Path("data") / name
    if stage == "transfer":
        pair, _, target = name.rpartition("-")
        output = Path("evaluations", "transfer", target, pair)
    if stage == "robustness":
        pair, _, corrupted = name.rpartition("-")
        output = robustness_section.folder(corrupted, pair)
    return output is None or not output.exists() or output.stat().st_mtime <= (diary.ended or diary.started)


def _time_left(stages: list[StageStatus], cards: dict[str, Card]) -> float | None:
    """Estimate the seconds until all trainings are done, with as many at a time as now."""
    estimates = Estimates(timings.load())
    left: dict[str, list[float | None]] = {"waiting": [], "running": []}
    for stage in stages:
        if stage.step in cards and stage.state in left:
            known = stage.seconds_left
            left[stage.state].append(_estimate(cards[stage.step], estimates) if known is None else known)
    return time_left(left["waiting"], left["running"], max(1, len(left["running"])))


def _estimate(card: Card, estimates: Estimates) -> float | None:
    """Estimate the seconds of a training; 0 for a teacher that is not trained here."""
    if "train" not in card:
        return 0.0
    pair, method = card.get("pair", f"{card['name']}-{card['name']}"), card.get("method", VANILLA)
    cell = Cell(pair, method, card["seed"], card.get("scale"), card.get("stand"))
    return estimates.seconds(cell, card["train"]["epochs"])


def _sweep_status(diary: Journal | None, at_work: bool) -> SweepStatus | None:
    if diary is None:
        return SweepStatus("beginning") if at_work else None
    state = "running" if at_work else "killed" if diary.ended is None else "ended"
    counts = Counter(step.state.value for step in diary.steps.values())
    return SweepStatus(
        state, diary.command, diary.pid, diary.host, diary.started, diary.ended, diary.dashboard, dict(counts)
    )


def _describe_sweep(sweep: SweepStatus | None) -> str:
    if sweep is None:
        return "no sweep has been at work here"
    if sweep.started is None:
        return "a sweep has just begun here, or a search is at work (python -m stages.tune)"
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


def _progress(stage: StageStatus) -> list[str]:
    """Fill the columns of a stage that runs: epoch, loss, test accuracy, images per second, time left."""
    if stage.epochs is None:
        return [""] * 5
    return [
        f"{stage.epoch}/{stage.epochs}",
        "" if stage.loss is None else f"{stage.loss:.3f}",
        "" if stage.test_top1 is None else f"{stage.test_top1:.2f}%",
        f"{stage.images_per_second:,.0f}",
        "" if stage.seconds_left is None else duration(stage.seconds_left),
    ]
