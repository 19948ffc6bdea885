"""The command `python -m stages.tune`: hand trials to a sweep's workers until there are as many as wanted."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from kdcore.sweep import cli, display, gpus, journal, mend, processes
from kdcore.sweep.display import Waiting
from kdcore.sweep.dvc_pipeline import Pipeline
from kdcore.sweep.processes import GRACE, Ending, Job, Outcome, end_at_once
from kdcore.sweep.transfer import Parcel
from kdcore.system import yamlfile
from kdcore.system.errors import UserError
from kdcore.training import loggers
from kdcore.tuning import outcome
from kdcore.tuning.setup import Setup
from kdcore.tuning.study import ABOUT, FOLDER, RESULT, Study, folder, result

if TYPE_CHECKING:
    from kdcore.sweep.crew import Crew

TICK = 0.25
"""Seconds between two looks at the workers."""
PATIENCE = 10.0
"""Seconds that a stopped search waits, beyond the time that trials have to save, for workers to report their end."""
RETRIES = 2
"""Further attempts for a trial whose worker was lost."""
HOPELESS = 3
"""So many trials that diverge, and none that is complete, end a search."""


def parse(arguments: Sequence[str], description: str | None) -> cli.Options:
    """Read the options of `python -m stages.tune`; exits with code 2 and a usage where they are wrong."""
    parser = argparse.ArgumentParser("python -m stages.tune", description=description)
    cli.add_workers(parser)
    no_sweep: dict[str, Any] = {"targets": [], "glob": False, "changes": [], "dry_run": False, "failed": False}
    return cli.Options(**no_sweep, retries=RETRIES, timeout=0, **vars(parser.parse_args(arguments)))


def tune(options: cli.Options) -> int:
    """Search as section `tune` of params.yaml says, or go on with that search; then write what it found.

    Returns:
        The exit code: 0 if there are as many trials as wanted, 1 if the search broke off, 128 plus the signal's number
        if it was stopped.

    Raises:
        UserError: the command line or the project is wrong, or a sweep or another search is at work.
        RunError: the workers are gone, or no trial is complete.
    """
    processes.threads_wanted()
    processes.refuse_together()
    loggers.chosen()
    if options.is_local:
        gpus.gpus()
    gpus.device_wanted()
    setup = Setup.load()
    space = setup.tune.dimensions
    integers = {key for key, values in space.items() if not values.choices and setup.tune.is_integer(key)}
    with _alone():
        for line in mend.mend(Path.cwd(), is_idle=True):
            print(line, file=sys.stderr)
        study = Study(setup.tune.study, space, integers=integers, protocol=setup.protocol)
        study.drop_undrawn()
        search = Search(setup, study)
        if len(study.ended) < setup.tune.trials:
            with ExitStack() as stack:
                hire = cli.hiring(options, stack, search.say)
                with Pipeline(Path.cwd()).held(), stack:  # what the workers do ends before DVC is free for others
                    search.run(hire())
        if search.stopped is not None:
            search.say(f"{len(study.ended)} of {setup.tune.trials} trials are done; run it again to go on")
            return 128 + search.stopped
        if search.trouble:
            search.say(f"{search.trouble}\n{len(study.ended)} of {setup.tune.trials} trials are done")
            return 1
        search.say(outcome.write(setup, study))
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """Keep sweeps and other searches out of this folder: each takes the machine's workers for itself.

    Raises:
        UserError: one is at work here.
    """
    journal.LOCK.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(journal.LOCK, timeout=1):
            yield
    except Timeout as error:
        raise UserError(
            f"{journal.LOCK}: a sweep or another search is at work in this folder; wait for it or stop it"
        ) from error


class Search:
    """Runs trials until there are as many as wanted.

    Args:
        setup: what is searched.
        study: the trials so far.
    """

    def __init__(self, setup: Setup, study: Study) -> None:
        self.setup, self.study = setup, study
        self.console = display.SilentConsole(stderr=True, emoji=False)
        self.complaints: set[str] = set()
        self.waiting = [one.number for one in study.trials("RUNNING")]
        """Trials that were drawn and have not ended: those of a search that was stopped or killed come first."""
        self.running: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.stopped: signal.Signals | None = None
        self.trouble = ""
        """Why no trial is started any more; empty as long as all is well."""

    def say(self, text: str) -> None:
        """Print a line, or several."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def run(self, crew: "Crew") -> None:
        """Run trials until there are enough, or a signal or trouble ends the search.

        Raises:
            UserError: a worker runs in a clone of the project.
            RunError: the Dask scheduler is gone.
        """
        waiting, deadline = Waiting(self.say), 0.0
        self.say(f"Dask's page: {crew.dashboard}")
        with self._listening(crew):
            while self.running or (self._wanted() > 0 and not self._is_over):
                if not self._is_over:
                    self._hand_out(crew, waiting)
                elif not deadline:
                    deadline = time.monotonic() + GRACE + PATIENCE
                    self.say("stopping: running trials may save their states (once more ends them at once)")
                    crew.stop()
                elif time.monotonic() > deadline:
                    break
                for delivery in crew.finished(TICK):
                    self._take(delivery.outcome)

    @property
    def _is_over(self) -> bool:
        """Whether no trial is started any more."""
        return self.stopped is not None or bool(self.trouble)

    def _wanted(self) -> int:
        """Say how many more trials may start."""
        return self.setup.tune.trials - len(self.study.ended) - len(self.running)

    def _hand_out(self, crew: "Crew", waiting: Waiting) -> None:
        room = crew.capacity()
        if crew.is_apart:
            raise UserError(
                "a worker works in a clone of the project, and trials share files in this folder; start workers where "
                f"{Path.cwd()} is shared, outside of clones"
            )
        for line in crew.complaints:
            if line not in self.complaints:
                self.say(line)
            self.complaints.add(line)
        self.trouble = crew.trouble
        waiting.note(not room and self._wanted() > 0, crew.reasons)
        while len(self.running) < room and self._wanted() > 0 and not self._is_over:
            number = self.waiting.pop(0) if self.waiting else self.study.ask()
            if (folder(self.study.name, number) / RESULT).is_file():  # the search was killed just then
                self._end(number)
            else:
                self._start(number, crew)

    def _start(self, number: int, crew: "Crew") -> None:
        study, here = self.study.name, folder(self.study.name, number)
        cards = self.setup.cards(f"tune_{study}_{number}", self.study.values_of(number))
        for name, card in cards.items():
            yamlfile.write(here / f"{name}.yaml", card)
        yamlfile.write(here / ABOUT, {"cells": list(cards), "pruner": self.setup.tune.pruner})
        self.running.add(number)
        self.attempts[number] = self.attempts.get(number, 0) + 1
        job = Job(
            f"trial@{number}", f"python -m stages.trial {study} {number}", str(Path.cwd()), str(self._log(number))
        )
        crew.submit(job, Parcel((), ()))

    def _log(self, number: int) -> Path:
        return FOLDER / self.study.name / f"{number}.log"

    def _take(self, ended: Outcome) -> None:
        number = int(ended.step.partition("@")[2])
        self.running.discard(number)
        if ended.ending is Ending.DONE:
            self._end(number)
        elif self._is_over:
            return
        elif ended.ending in (Ending.LOST, Ending.STOPPED) and self.attempts[number] <= RETRIES:
            self.say(f"trial {number}: {ended.ending.value}; is tried again from its last finished epoch")
            self.waiting.insert(0, number)
        else:
            lines = [f"trial {number}: {ended.ending.value}, see {self._log(number)}", *ended.tail]
            self.trouble = "\n    ".join(lines)

    def _end(self, number: int) -> None:
        """Record a trial that has left its result."""
        found = result(self.study.name, number)
        self.study.tell(number, found)
        values = ", ".join(f"{key} {value}" for key, value in self.study.values_of(number).items())
        how = {
            "complete": f"{found['score'] or 0:.2f}%",
            "pruned": f"stopped early at {found['score'] or 0:.2f}%",
            "failed": f"diverged ({found['reason']})",
        }[found["state"]]
        best = self.study.best
        so_far = f"; best so far: {best.value:.2f}%, trial {best.number}" if best is not None else ""
        self.say(f"trial {number}: {values}: {how}{so_far}")
        failed = self.study.trials("FAIL")
        if best is None and len(failed) >= HOPELESS:
            self.trouble = f"the first {len(failed)} trials have all diverged; lower the ranges of tune.space"

    @contextmanager
    def _listening(self, crew: "Crew") -> Iterator[None]:
        """Stop at Ctrl-C, at SIGTERM and when the terminal is closed; at a second signal end at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped is not None:
                crew.abandon()
                end_at_once(128 + number)
            self.stopped = signal.Signals(number)

        heard = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
        before = {
            number: signal.signal(number, stop) for number in heard if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
