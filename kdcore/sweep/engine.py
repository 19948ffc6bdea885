"""A sweep: DVC's stale stages, handed to a crew of workers in the order of their needs, and recorded by DVC."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kdcore.matrix.cards import CARDS
from kdcore.sweep import journal as journals
from kdcore.sweep import warm
from kdcore.sweep.display import Screen
from kdcore.sweep.dvc_pipeline import Pipeline, Verdict
from kdcore.sweep.journal import Journal
from kdcore.sweep.processes import Ending, Job, Outcome
from kdcore.sweep.schedule import Order, Schedule, State, Step
from kdcore.sweep.transfer import Delivery, Parcel, Post
from kdcore.system import yamlfile
from kdcore.system.errors import FULL_DISK, RunError, UserError, is_full
from kdcore.system.files import file_sha256, read_json, replace_text
from kdcore.training import run_folder
from kdcore.training.pulse import pulses

if TYPE_CHECKING:
    from kdcore.sweep.dask_workers import Crew  # Dask takes half a second, and a sweep that has nothing to do no Dask

PATIENCE = 10.0
"""Seconds that workers have to say that what was stopped has ended, beyond those that it has itself."""
TICK = 0.25
"""Seconds between two looks at what has changed."""
HERE = ("plan", "data", "pairs", "tables")
"""Stages that run in the sweep's folder: they read files that DVC does not carry, or the network."""
AGAIN = (Ending.LOST, Ending.OUT_OF_MEMORY, Ending.STOPPED)
"""How a stage may end that is tried again; one is stopped with its worker, too."""
RECORDING = 0.05
"""Share of the time that may go into dvc.lock, which is written as a whole."""


@dataclass(frozen=True)
class Tries:
    """How patient a sweep is."""

    retries: int
    """Further attempts in a row for a stage whose worker was lost, or that ran out of memory, before its next epoch."""
    timeout: float | None
    """Seconds without a sign of life, after which a stage is ended; None waits for ever."""


class Sweep:
    """Brings the stages of a pipeline up to date.

    Args:
        pipeline: of the project in the working directory.
        order: what runs first.
        hire: gives the crew that works, when there is work.
        tries: how often, and how long.
        journal: where others can see it.
        screen: where a person sees it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        order: Order,
        hire: "Callable[[], Crew]",
        *,
        tries: Tries,
        journal: Journal,
        screen: Screen,
    ) -> None:
        self.pipeline, self.tries, self.journal, self.screen, self.say = pipeline, tries, journal, screen, screen.say
        self.hire = hire
        self.schedule = Schedule.of(pipeline.needs, order.rank)
        self.most: int | None = None
        """Jobs at a time, where memory did not suffice for all slots."""
        self.stopped: signal.Signals | None = None
        self.patience = 0.0
        """When one that was stopped waits no longer for what runs."""
        self.trouble = ""
        """Why nothing is handed out any more."""
        self.is_waiting = False
        """For workers: none is there."""
        self.sent: set[str] = set()
        """Digests of what is in the DVC remote."""
        self.recorded, self.recording = time.monotonic(), 0.0
        journal.steps = self.schedule.steps

    def run(self) -> None:
        """Carry the sweep to its end, whatever becomes of single stages; `failures` says what did."""
        params = Path("params.yaml")
        before = file_sha256(params)
        with self._listening():
            try:
                while not self.schedule.is_finished:
                    self._hand_out()
                    if self.schedule.count(State.RUNNING, State.WAITING):
                        for delivery in self.crew.finished(TICK):
                            self._take(delivery)
                    self._record()
                    self.screen.update()
            finally:
                self.journal.ended = time.time()
                self._record(at_once=True)
        if not params.is_file() or file_sha256(params) != before:
            self.say("params.yaml has changed since this sweep began; it did what it had planned. Run it again")

    @cached_property
    def crew(self) -> "Crew":
        """Hired when it is first needed."""
        crew = self.hire()
        self.journal.dashboard = crew.dashboard
        self.say(f"Dask's page: {crew.dashboard}; from another terminal: python -m stages.status")
        return crew

    @property
    def failures(self) -> list[Step]:
        """Stages that failed."""
        return [step for step in self.schedule.steps.values() if step.state is State.FAILED]

    def _hand_out(self) -> None:
        """Give the crew as much as it can take."""
        if self.stopped is not None or self.trouble:
            self._leave()
            return
        while True:
            ready = self.schedule.ready()
            if self._is_busy():
                ready = [name for name in ready if is_here(name)]
            if not ready:
                return
            self._begin(ready[0])

    def _is_busy(self) -> bool:
        """Whether every slot has its job. Where nothing was stale yet there is no crew, and none may be needed."""
        busy = sum(step.state is State.RUNNING and not is_here(step.name) for step in self.schedule.steps.values())
        if "crew" not in self.__dict__:
            return False
        room = self.crew.capacity()
        if not room and not self.is_waiting:
            self.say("\n".join(["waiting for workers", *self.crew.troubles]))
        self.is_waiting = not room
        return busy >= (room if self.most is None else min(self.most, room))

    def _leave(self) -> None:
        """Hand nothing out any more; what runs saves its state, or ends where there is trouble."""
        for step in self.schedule.steps.values():
            if step.state is State.WAITING:
                step.state = State.STOPPED
        running = [step.name for step in self.schedule.steps.values() if step.state is State.RUNNING]
        if self.stopped is None or not running:
            return
        if not self.crew.stopping.is_set():
            self.say(f"stopping: {shortened(running)} may save their states (once more ends them at once)")
            self.crew.stop()
            self.patience = time.monotonic() + warm.GRACE + PATIENCE
        elif time.monotonic() > self.patience:
            self.say(f"no answer: {shortened(running)} may still be at work")
            for name in running:
                self.schedule.settle(name, State.STOPPED)

    def _begin(self, name: str) -> None:
        """Let DVC decide what a stage needs, and have it run if it must."""
        step = self.schedule.steps[name]
        verdict = None
        with self._failing(step):
            verdict = self.pipeline.check(name)
        if verdict is Verdict.STALE:
            crew = self.crew  # outside of what fails with one stage: without a crew there is no sweep
            if not is_here(name) and self._is_busy():
                return
            with self._failing(step):
                self._start(step, crew)
        elif verdict is not None:
            self.schedule.settle(name, State.CACHED if verdict is Verdict.CACHED else State.UP_TO_DATE)
            if verdict is Verdict.CACHED:
                self.say(f"{name}: was in the cache")

    def _start(self, step: Step, crew: "Crew") -> None:
        step.state, step.started, step.attempts = State.RUNNING, time.time(), step.attempts + 1
        command, log = self.pipeline.command(step.name), journals.log(step.name)
        job = Job(step.name, command, str(Path.cwd()), str(log), self.tries.timeout)
        if is_here(step.name):
            crew.run_here(job)
            return
        inputs = self.pipeline.inputs(step.name)
        if crew.is_apart:
            new = [item for item in inputs if item["md5"] not in self.sent]
            Post(Path.cwd()).send(new)
            self.sent.update(item["md5"] for item in new)
        crew.submit(job, Parcel(tuple(inputs), tuple(self.pipeline.outputs(step.name)), crew.code))

    def _take(self, delivery: Delivery) -> None:
        """What has become of a stage."""
        outcome = delivery.outcome
        step = self.schedule.steps[outcome.step]
        step.worker, step.seconds = outcome.worker, round(outcome.seconds, 2)
        if outcome.ending is Ending.DONE:
            with self._failing(step):
                if delivery.made is not None:
                    Post(Path.cwd()).fetch(delivery.made)
                check_made(step.name, self.pipeline.outputs(step.name))
                self.pipeline.finish(step.name)
                self.schedule.settle(step.name, State.DONE)
                self.say(f"{step.name}: done in {outcome.seconds:.1f} s")
        elif outcome.ending is Ending.STOPPED and self.stopped is not None:
            self.schedule.settle(step.name, State.STOPPED)
        elif outcome.ending in AGAIN and self._has_tries(step):
            self._try_again(step, outcome)
        else:
            if delivery.is_apart:
                replace_text(journals.log(step.name), "\n".join(outcome.tail))
            self._fail(step, _reason(outcome), outcome.tail)
            if outcome.code == FULL_DISK:
                self._halt()

    def _has_tries(self, step: Step) -> bool:
        """Whether it may be tried once more: on machines that come and go it may be lost often, and still get done."""
        pulse = pulses(self.say).get(step.name.partition("@")[2])
        if pulse is not None and pulse.epoch > step.epoch:
            step.epoch, step.attempts = pulse.epoch, 1
        return step.attempts <= self.tries.retries

    def _try_again(self, step: Step, outcome: Outcome) -> None:
        step.state = State.WAITING
        self.say(f"{step.name}: {outcome.ending.value}; is tried again from its last finished epoch")
        if outcome.ending is Ending.OUT_OF_MEMORY:
            self.most = max(1, (self.schedule.count(State.RUNNING) + 1) // 2)
            self.say(f"memory did not suffice: {self.most} at a time from now on")

    @contextmanager
    def _failing(self, step: Step) -> Iterator[None]:
        """What goes wrong with one stage is its failure; where the disk is full, the sweep's."""
        try:
            yield
        except (RunError, UserError, OSError) as error:
            self._fail(step, str(error))
            if is_full(error):
                self._halt()

    def _fail(self, step: Step, reason: str, tail: list[str] | None = None) -> None:
        blocked = self.schedule.settle(step.name, State.FAILED, reason)
        lines = [f"{step.name}: failed: {reason}", *(f"    {line}" for line in tail or [])]
        lines += [f"    blocked by it: {shortened(blocked)}"] if blocked else []
        self.say("\n".join(lines))

    def _record(self, *, at_once: bool = False) -> None:
        """Keep dvc.lock and the journal up to date."""
        try:
            self.journal.write()
            if at_once or time.monotonic() - self.recorded > self.recording / RECORDING:
                began = time.monotonic()
                self.pipeline.record()
                self.recorded = time.monotonic()
                self.recording = self.recorded - began
                self.journal.recorded_before = self.pipeline.recorded_before
                self.journal.write()
        except OSError as error:
            if not is_full(error):
                raise
            self._halt()

    def _halt(self) -> None:
        if not self.trouble:
            self.trouble = "the disk is full: make space, and run it again"
            self.say(self.trouble)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Stop at Ctrl-C, SIGTERM and when the terminal goes; at the second of them at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped is not None:
                os._exit(128 + number)
            self.stopped = signal.Signals(number)

        wanted = [signal.SIGTERM]
        for number in (signal.SIGINT, signal.SIGHUP):  # which nohup, or a shell in whose background this runs, ignores
            wanted += [number] if signal.getsignal(number) is not signal.SIG_IGN else []
        before = {number: signal.signal(number, stop) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_here(step: str) -> bool:
    """Whether a stage runs in the sweep's folder, beside what its workers do."""
    stage, _, name = step.partition("@")
    if stage == "teacher":
        card = CARDS / "teacher" / f"{name}.yaml"
        return not card.is_file() or yamlfile.read(card)["source"] != "train"
    return stage in HERE


def check_made(step: str, outputs: Sequence[str]) -> None:
    """Refuse outputs that are no valid results, whatever the exit code was.

    Args:
        step: the stage's name.
        outputs: its paths.

    Raises:
        UserError: one is missing or damaged, or of something else.
    """
    stage, _, name = step.partition("@")
    for output in map(Path, outputs):
        if not output.exists():
            raise UserError(f"{output}: has not been made")
        for file in output.glob("*.json"):
            read_json(file)
        if stage in ("train", "baseline", "teacher"):
            run_folder.check(output, yamlfile.read(CARDS / stage / f"{name}.yaml"))


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Some of them, and how many more there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def _reason(outcome: Outcome) -> str:
    code = f" (exit code {outcome.code})" if outcome.code else ""
    hint = {Ending.LOST: ": killed from outside, by the system if memory ran out (fewer --jobs)"}
    return f"{outcome.ending.value}{code}{hint.get(outcome.ending, '')}, see {journals.log(outcome.step)}"
