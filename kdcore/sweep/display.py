"""What a person sees of a sweep that runs."""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from statistics import median
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdcore.sweep.journal import Journal
from kdcore.sweep.schedule import GOOD, State, Step
from kdcore.training.pulse import Pulse, pulses

INTERVAL = 0.25
"""Seconds between two views."""
SKEW = 60.0
"""Seconds by which the clocks of two machines may differ."""
COUNTED = {
    "done": GOOD,
    "running": (State.RUNNING,),
    "waiting": (State.WAITING,),
    "failed": (State.FAILED,),
    "blocked": (State.BLOCKED,),
    "stopped": (State.STOPPED,),
}


class _Unheard(Console):
    """Goes on in silence when nobody reads it any more: a matrix takes days, and what shows it may end."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Screen:
    """Lines for what has happened; in a terminal, below them, what is running now.

    Args:
        journal: of the sweep.
        console: where it is shown.
    """

    def __init__(self, journal: Journal, console: Console | None = None) -> None:
        self.journal = journal
        self.console = console or _Unheard(stderr=True)
        self.seconds: dict[str, float | None] = {}
        """That stages are estimated to take."""
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.shown = 0.0
        self.most = 1
        """Stages that ran at the same time so far."""
        self.said: set[str] = set()

    def say(self, text: str) -> None:
        """Add a line, or some."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self) -> None:
        """Show what is running now, unless that was done just before."""
        if self.console.is_terminal and time.monotonic() - self.shown >= INTERVAL:
            self.live.update(self.view(), refresh=True)
            self.shown = time.monotonic()

    def view(self) -> Group:
        """A line on the whole sweep, and a row for each stage that runs."""
        table = Table(box=None, pad_edge=False, show_header=False)
        found = pulses(self._complain)
        running = [step for step in self.journal.steps.values() if step.state is State.RUNNING]
        beats = {step.name: beat(step, found) for step in running}
        for step in running:
            table.add_row(*row(step, beats[step.name]))
        dashboard = [Text(f"Dask's page: {self.journal.dashboard}")] if self.journal.dashboard else []
        return Group(Text(self._summary(beats), style="bold"), table, *dashboard)

    def _summary(self, beats: dict[str, Pulse | None]) -> str:
        steps = self.journal.steps.values()
        self.most = max(self.most, len(beats))
        counts = {what: sum(step.state in states for step in steps) for what, states in COUNTED.items()}
        expected = self._expected()
        left = time_left(
            [expected[step.name] for step in steps if step.state is State.WAITING],
            [_left(self.journal.steps[name], pulse, expected[name]) for name, pulse in beats.items()],
            self.most,
        )
        parts = [f"{number} {what}" for what, number in counts.items() if number]
        parts += [f"{duration(time.time() - self.journal.started)} so far"]
        return ", ".join([*parts, *([f"about {duration(left)} left"] if left is not None else [])])

    def _expected(self) -> dict[str, float | None]:
        """Seconds that each stage takes: as estimated, else as its like took in this sweep; what has no estimate
        because it trains nothing takes none.
        """
        took = defaultdict(list)
        for step in self.journal.steps.values():
            if step.state is State.DONE and step.seconds is not None:
                took[stage_of(step)].append(step.seconds)
        typical = {stage: median(seconds) for stage, seconds in took.items()}
        found = {}
        for name, step in self.journal.steps.items():
            estimate = self.seconds.get(name, 0.0)
            found[name] = estimate or typical.get(stage_of(step), estimate)
        return found

    def _complain(self, text: str) -> None:
        """Of each damaged file once, however often it is looked at."""
        if text not in self.said:
            self.said.add(text)
            self.say(text)

    def __enter__(self) -> "Screen":
        """Begin."""
        if self.console.is_terminal:
            self.live.start()
            self.console.show_cursor()  # the sweep may be killed, and the terminal has to stay as it was
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing but the lines."""
        self.live.stop()


def stage_of(step: Step) -> str:
    """The stage of dvc.yaml that a step is one of."""
    return step.name.partition("@")[0]


def _left(step: Step, pulse: Pulse | None, expected: float | None) -> float | None:
    """Seconds that a stage runs still."""
    if pulse is not None and pulse.seconds_left is not None:
        return max(0.0, pulse.seconds_left - (time.time() - pulse.updated))
    return None if expected is None else max(0.0, expected - (time.time() - (step.started or time.time())))


def beat(step: Step, found: dict[str, Pulse]) -> Pulse | None:
    """The pulse of a stage that runs; None before its first, for the file may be that of an attempt that was killed."""
    pulse = found.get(step.name.partition("@")[2])
    if pulse is None:
        return None
    slack = 0.0 if pulse.host == platform.node() else SKEW
    return pulse if pulse.updated >= (step.started or 0.0) - slack else None


def row(step: Step, pulse: Pulse | None) -> tuple[str, ...]:
    """Of a stage that runs: name, epoch, loss, images per second, time left, where it is."""
    if pulse is None:
        return (step.name, f"for {duration(time.time() - (step.started or time.time()))}", "", "", "", step.worker)
    return (step.name, *progress(pulse), step.worker or pulse.host)


def progress(pulse: Pulse) -> tuple[str, str, str, str]:
    """Epoch, loss, images per second and time left, in words."""
    return (
        f"epoch {pulse.epoch}/{pulse.epochs}",
        "" if pulse.loss is None else f"loss {pulse.loss:.3f}",
        f"{pulse.images_per_second:,.0f} images/s" if pulse.images_per_second else "",
        "" if pulse.seconds_left is None else f"{duration(pulse.seconds_left)} left",
    )


def time_left(waiting: Sequence[float | None], running: Sequence[float | None], jobs: int) -> float | None:
    """Seconds until all is done, by what each stage will take still; None where that is not known of one.

    Args:
        waiting: of each stage that waits.
        running: of each that runs.
        jobs: at a time.
    """
    known = [seconds for seconds in (*waiting, *running) if seconds is not None]
    if len(known) < len(waiting) + len(running) or not known:
        return None
    return max(sum(known) / jobs, *(seconds for seconds in running if seconds is not None), 0.0)


WIDTH = 160
"""Columns where nobody's terminal says how many there are."""


def duration(seconds: float | None) -> str:
    """To two units, the last one rounded up to: 45 s, 12 min, 3 h 20 min, 2 d 4 h; a question mark for None."""
    if seconds is None:
        return "?"
    if seconds <= 59:
        return f"{ceil(seconds)} s"
    minutes = ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours + (minutes > 0), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def listed(parts: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def console() -> Console:
    """For a table: as wide as the terminal; wide enough where there is none, unless COLUMNS says otherwise."""
    made = _Heard(highlight=False)
    return made if made.is_terminal else _Heard(highlight=False, width=max(made.width, WIDTH))


class _Heard(Console):
    """Ends with the error itself when nobody reads it any more, of which `stages.run` knows."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
