"""A sweep: hands DVC's stale stages to workers as soon as what they need is done, and records the results in DVC."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kdcore.matrix import side_by_side
from kdcore.sweep import journal as journals
from kdcore.sweep.display import Screen, Waiting, shortened
from kdcore.sweep.dvc_pipeline import Pipeline, Verdict
from kdcore.sweep.journal import Journal
from kdcore.sweep.markers import Markers
from kdcore.sweep.processes import GRACE, Ending, Job, Outcome, end_at_once
from kdcore.sweep.schedule import Order, Schedule, State, Step
from kdcore.sweep.steps import card_of, check_outputs, is_here, is_left_out, is_training, remarks
from kdcore.sweep.transfer import Delivery, Parcel, Post
from kdcore.system import signals
from kdcore.system.errors import FULL_DISK, RunError, UserError, is_full
from kdcore.system.files import file_sha256, replace_text
from kdcore.training.pulse import pulses

if TYPE_CHECKING:
    from kdcore.sweep.crew import Crew  # Dask takes half a second, and a sweep that has nothing to do no Dask

PATIENCE = 10.0
"""Seconds that a stopped sweep waits, beyond the time that stages have to save, for workers to report their end."""
TICK = 0.25
"""Seconds between two updates of the journal and the screen."""
UNFINISHED = (State.WAITING, State.RUNNING)
RETRIED = (Ending.LOST, Ending.OUT_OF_MEMORY, Ending.STOPPED)
"""Endings after which a stage is tried again. It may be stopped though the sweep goes on: with its worker."""
MOST_BESIDE = 4
"""Cells that one process trains at a time; more would gain little and take memory."""
RECORDING = 0.05
"""The share of time for dvc.lock, and for the journal. Both are written whole, in a second or more if large."""


@dataclass(frozen=True)
class Tries:
    """How often a sweep tries a stage, and how long it waits for one."""

    retries: int
    """Further attempts for a stage whose worker was lost, or that ran out of memory; an epoch further, all are back."""
    timeout: float | None
    """Seconds without a sign of life, after which a training is ended; None waits for ever. Other stages give none."""


class Sweep:
    """Brings the stages of a pipeline up to date.

    Args:
        pipeline: the stages of the project in the working directory.
        order: ranks stages that may run at the same time.
        hire: connects the workers; called once there is something to run.
        tries: how often a stage is tried.
        journal: the file in which other commands read how far the sweep is.
        screen: what a person sees.
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
        """The most stages at a time, once memory did not suffice for all slots."""
        self.stopped: signal.Signals | None = None
        self.patience = 0.0
        """The monotonic time at which a stopped sweep no longer waits for running stages."""
        self.trouble = ""
        """Why no stage is started any more; empty as long as all is well."""
        self.waiting = Waiting(self.say)
        self.is_ending_all = False
        """Whether running stages are to end too: after a signal, or where no worker will come any more."""
        self.kinds: dict[str, str | None] = {}
        self.remarked: list[str] = []
        """Stages that are done, and have said what a person should read."""
        self.markers = Markers(pipeline)
        self.left_out: dict[str, bool] = {}
        """Stage -> whether it is that of a cell which the matrix leaves out, as far as it was asked."""
        self.leaders: dict[str, str] = {}
        """Stage -> the running stage whose process trains it side by side with its own."""
        self.sent: set[str] = set()
        """Hashes of what this sweep has sent to the DVC remote."""
        self.recorded, self.recording = time.monotonic(), 0.0
        self.noted, self.noting = self.recorded, 0.0
        journal.steps = self.schedule.steps

    def run(self) -> None:
        """Run the sweep to its end though single stages may fail; `failures` lists those."""
        params = Path("params.yaml")
        before = file_sha256(params)
        with self._listening():
            try:
                while not self.schedule.is_finished:
                    self._look_for_workers()
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
        """The workers, connected when they are first needed."""
        crew = self.hire()
        self.journal.dashboard = crew.dashboard
        self.say(f"Dask's page: {crew.dashboard}; from another terminal: python -m stages.status")
        return crew

    @property
    def failures(self) -> list[Step]:
        """The stages that failed."""
        return [step for step in self.schedule.steps.values() if step.state is State.FAILED]

    def _look_for_workers(self) -> None:
        """Say so where there is none for what should run, and end where none will come any more."""
        if "crew" not in self.__dict__ or self.stopped is not None or self.is_ending_all:
            return
        room = self.crew.capacity()
        wanted = [*self.schedule.ready(), *self._running()]
        self.waiting.note(not room and not all(map(is_here, wanted)), self.crew.reasons)
        for line in self.crew.complaints:
            self.screen.say_once(line)
        needed = (not is_here(step.name) for step in self.schedule.steps.values() if step.state in UNFINISHED)
        if (trouble := self.crew.trouble) and any(needed):
            self.trouble, self.is_ending_all = trouble, True
            self.say(trouble)

    def _running(self) -> list[str]:
        return [step.name for step in self.schedule.steps.values() if step.state is State.RUNNING]

    def _hand_out(self) -> None:
        """Start as many stages as there are free slots."""
        if self.stopped is not None or self.trouble:
            self._wind_up()
            return
        while True:
            ready = [name for name in self.schedule.ready() if name not in self.leaders]
            others = [name for name in ready if self._is_left_out(name)]
            for name in others:
                with self._failing(self.schedule.steps[name]):
                    self.markers.keep(name)
                    self.schedule.settle(name, State.LEFT_OUT)
            if not others and not self._begin_in_turn(ready):
                return

    def _begin_in_turn(self, ready: list[str]) -> bool:
        """Start stages while there are free slots; says whether one is settled by that, so that more may be ready."""
        is_settled, is_busy = False, self._is_busy()
        for name in ready:
            step = self.schedule.steps[name]
            if step.state is not State.WAITING or name in self.leaders or (is_busy and not is_here(name)):
                continue
            self._begin(name)
            is_settled |= step.state not in UNFINISHED
            is_busy = self._is_busy()
        return is_settled

    def _is_busy(self) -> bool:
        """Say whether all slots are taken; not before there is a crew, for perhaps nothing is stale."""
        if "crew" not in self.__dict__:
            return False
        busy = sum(step.state is State.RUNNING and not is_here(step.name) for step in self.schedule.steps.values())
        room = self.crew.capacity()
        return busy >= (room if self.most is None else min(self.most, room))

    def _wind_up(self) -> None:
        """Start nothing any more. Running stages go on to their end, or save their states where all is to end."""
        for step in self.schedule.steps.values():
            if step.state is State.WAITING:
                step.state = State.STOPPED
        running = self._running()
        if not (self.stopped or self.is_ending_all) or not running:
            return
        if not self.crew.stopping.is_set():
            hint = " (once more ends them at once)" if self.stopped else ""
            self.say(f"stopping: {shortened(running)} may save their states{hint}")
            self.crew.stop()
            self.patience = time.monotonic() + GRACE + PATIENCE
        elif time.monotonic() > self.patience:
            self.say(f"no answer: {shortened(running)} may still be at work")
            for name in running:
                self.schedule.settle(name, State.STOPPED)

    def _begin(self, name: str) -> None:
        """Start a stage where it is stale."""
        step = self.schedule.steps[name]
        if self._is_stale(step):
            crew = self.crew  # not inside _failing: what goes wrong here fails the sweep, not this stage
            if not is_here(name) and self._is_busy():
                return
            with self._failing(step):
                self._start(step, crew)

    def _is_stale(self, step: Step) -> bool:
        """Ask DVC what a stage needs: nothing, its outputs from the cache, or to be run; the first two settle it."""
        verdict = None
        with self._failing(step):
            verdict = self.pipeline.check(step.name)
            if verdict is Verdict.CACHED:
                check_outputs(step.name, self.pipeline.outputs(step.name))
        if verdict in (Verdict.CACHED, Verdict.UP_TO_DATE):
            self.schedule.settle(step.name, State.CACHED if verdict is Verdict.CACHED else State.UP_TO_DATE)
        if verdict is Verdict.CACHED:
            self.say(f"{step.name}: was in the cache")
        return verdict is Verdict.STALE

    def _is_left_out(self, name: str) -> bool:
        if name not in self.left_out:
            self.left_out[name] = is_left_out(name)
        return self.left_out[name]

    def _beside(self, step: Step, crew: "Crew") -> list[str]:
        """Choose the stages to train side by side with one: an equal share, for each slot, of the stale cells of its
        kind. A stage that is tried again goes alone, for it may have been too large.
        """
        kind = self._kind(step.name)
        if kind is None or crew.is_apart or step.attempts:
            return []
        waiting = [name for name in self.schedule.ready() if name != step.name and name not in self.leaders]
        alike = [name for name in waiting if self._kind(name) == kind]
        share = min((len(alike) + 1) // max(1, crew.capacity()), MOST_BESIDE)
        chosen: list[str] = []
        for name in alike:
            if len(chosen) + 1 < share and self._is_stale(self.schedule.steps[name]):
                chosen.append(name)
        return chosen

    def _start(self, step: Step, crew: "Crew") -> None:
        beside = self._beside(step, crew)
        self.leaders |= dict.fromkeys(beside, step.name)
        for name in beside:
            self.schedule.steps[name].reason = f"is trained side by side with {step.name}"
        step.state, step.started, step.attempts = State.RUNNING, time.time(), step.attempts + 1
        command, log = self.pipeline.begin(step.name), str(journals.log(step.name))
        timeout = self.tries.timeout if is_training(step.name) else None
        job = Job(step.name, command, str(Path.cwd()), log, timeout, tuple(name.partition("@")[2] for name in beside))
        if is_here(step.name):
            crew.run_here(job)
            return
        inputs = self.pipeline.inputs(step.name)
        if crew.is_apart:
            new = [item for item in inputs if item["md5"] not in self.sent]
            Post(Path.cwd()).send(new)
            self.sent.update(item["md5"] for item in new)
        crew.submit(job, Parcel(tuple(inputs), tuple(self.pipeline.outputs(step.name))))

    def _kind(self, name: str) -> str | None:
        """Stages of the same kind can be trained side by side; None for one that goes alone."""
        if name not in self.kinds:
            card = card_of(name)
            kind = None if card is None else side_by_side.kind(card)
            self.kinds[name] = kind and f"{name.partition('@')[0]} {kind}"
        return self.kinds[name]

    def _take(self, delivery: Delivery) -> None:
        """Record how a stage has ended."""
        outcome = delivery.outcome
        step = self.schedule.steps[outcome.step]
        step.worker, step.seconds = outcome.worker, round(outcome.seconds, 2)
        self._release(step)
        if outcome.ending is Ending.DONE:
            with self._failing(step):
                if delivery.outputs is not None:
                    Post(Path.cwd()).fetch(delivery.outputs)
                check_outputs(step.name, self.pipeline.outputs(step.name))
                self.pipeline.finish(step.name)
                self.schedule.settle(step.name, State.DONE)
                said = remarks(step.name, outcome.tail)
                self.remarked += [step.name] if said else []
                lines = [f"{step.name}: done in {outcome.seconds:.1f} s", *(f"    {line}" for line in said)]
                self.say("\n".join(lines))
        elif outcome.ending is Ending.STOPPED and (self.stopped or self.is_ending_all):
            self.schedule.settle(step.name, State.STOPPED)
        elif outcome.ending in RETRIED and self._has_tries(step):
            self._try_again(step, outcome)
        else:
            if delivery.is_apart:
                replace_text(journals.log(step.name), "\n".join(outcome.tail))
            self._fail(step, _reason(outcome), outcome.tail)
            if outcome.code == FULL_DISK:
                self._stop_for_full_disk()

    def _has_tries(self, step: Step) -> bool:
        """Say whether a stage may be tried again. One that got an epoch further may be lost as often as before: on
        machines that come and go, a cell is lost often and still gets done.
        """
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
        """Turn an error into the failure of one stage; a full disk also stops the sweep."""
        try:
            yield
        except (RunError, UserError, OSError) as error:
            self._fail(step, str(error))
            if is_full(error):
                self._stop_for_full_disk()

    def _release(self, leader: Step) -> None:
        """Let the stages run that a process trained side by side with its own: they write their results."""
        for name in [name for name, other in self.leaders.items() if other == leader.name]:
            self.schedule.steps[name].reason = ""
            del self.leaders[name]

    def _fail(self, step: Step, reason: str, tail: list[str] | None = None) -> None:
        self._release(step)
        blocked = self.schedule.settle(step.name, State.FAILED, reason)
        lines = [f"{step.name}: failed: {reason}", *(f"    {line}" for line in tail or [])]
        lines += [f"    blocked by it: {shortened(blocked)}"] if blocked else []
        self.say("\n".join(lines))

    def _record(self, *, at_once: bool = False) -> None:
        """Keep dvc.lock and the journal up to date."""
        try:
            if at_once or time.monotonic() - self.noted > self.noting / RECORDING:
                self._note()
            if at_once or time.monotonic() - self.recorded > self.recording / RECORDING:
                began = time.monotonic()
                if self.pipeline.record():
                    self.journal.recorded_before = self.pipeline.recorded_before
                    self._note()
                self.recorded = time.monotonic()
                self.recording = self.recorded - began
        except OSError as error:
            if not is_full(error):
                raise
            self._stop_for_full_disk()

    def _note(self) -> None:
        began = time.monotonic()
        self.journal.write()
        self.noted = time.monotonic()
        self.noting = self.noted - began

    def _stop_for_full_disk(self) -> None:
        if not self.trouble:
            self.trouble = "the disk is full: make space, and run it again"
            self.say(self.trouble)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Stop at Ctrl-C, at SIGTERM and when the terminal is closed; at a second signal end at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped is not None:
                if "crew" not in self.__dict__:  # it may be connecting, with jobs in a queue already
                    raise KeyboardInterrupt(number)
                self.crew.abandon()
                end_at_once(128 + number)
            self.stopped = signal.Signals(number)

        wanted = [signal.SIGTERM]
        for number in (signal.SIGINT, signal.SIGHUP):  # ignored under nohup, or in the background of a shell
            wanted += [number] if signal.getsignal(number) is not signal.SIG_IGN else []
        before = {number: signal.signal(number, stop) for number in wanted}
        if signals.received:  # and Python has thrown its KeyboardInterrupt away, as in a __del__
            self.stopped = signal.Signals(signals.received[0])
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _reason(outcome: Outcome) -> str:
    code = f" (exit code {outcome.code})" if outcome.code else ""
    hint = {Ending.LOST: ": killed from outside, by the system if memory ran out (fewer --jobs)"}
    return f"{outcome.ending.value}{code}{hint.get(outcome.ending, '')}, see {journals.log(outcome.step)}"
