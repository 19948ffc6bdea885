"""What a person sees of a sweep: its screen while it runs, and the words and consoles of other commands."""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
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
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds after which it is said again that a sweep waits for workers: at first, and at most."""
COUNTED = {
    "done": GOOD,
    "running": (State.RUNNING,),
    "waiting": (State.WAITING,),
    "failed": (State.FAILED,),
    "blocked": (State.BLOCKED,),
    "stopped": (State.STOPPED,),
}


class SilentConsole(Console):
    """Goes silent when its reader is gone: a matrix takes days, and the terminal that shows it may end before."""

    def on_broken_pipe(self) -> None:
        """Say nothing any more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Screen:
    """Prints lines about what has happened and, in a terminal, what is running now below them.

    Args:
        journal: of the sweep.
        console: where to print; None prints to stderr.
    """

    def __init__(self, journal: Journal, console: Console | None = None) -> None:
        self.journal = journal
        self.console = console or SilentConsole(stderr=True, emoji=False)
        self.seconds: dict[str, float | None] = {}
        """Stage -> the seconds that it is estimated to take."""
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.shown = 0.0
        self.most = 1
        """The most stages that ran at the same time so far."""
        self.complaints: set[str] = set()

    def say(self, text: str) -> None:
        """Print a line, or several."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self) -> None:
        """Show what is running now, unless that was done just before."""
        if self.console.is_terminal and time.monotonic() - self.shown >= INTERVAL:
            self.live.update(self.view(), refresh=True)
            self.shown = time.monotonic()

    def view(self) -> Group:
        """Compose a line on the whole sweep, and a row for each stage that runs."""
        table = Table(box=None, pad_edge=False, show_header=False)
        by_name = pulses(self.say_once)
        running = [step for step in self.journal.steps.values() if step.state is State.RUNNING]
        beats = {step.name: pulse_of(step, by_name) for step in running}
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
        """Estimate the seconds of each stage: from earlier trainings, or else from stages of its kind in this sweep.
        A stage that trains nothing and has no like counts as 0.
        """
        took = defaultdict(list)
        for step in self.journal.steps.values():
            if step.state is State.DONE and step.seconds is not None:
                took[stage_of(step)].append(step.seconds)
        typical = {stage: median(seconds) for stage, seconds in took.items()}
        expected = {}
        for name, step in self.journal.steps.items():
            estimate = self.seconds.get(name, 0.0)
            expected[name] = estimate or typical.get(stage_of(step), estimate)
        return expected

    def say_once(self, text: str) -> None:
        """Say what is wrong once, however often it is noticed."""
        if text not in self.complaints:
            self.complaints.add(text)
            self.say(text)

    def __enter__(self) -> "Screen":
        """Start to show what is running."""
        if self.console.is_terminal:
            self.live.start()
            self.console.show_cursor()  # a sweep that is killed could not bring it back
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was running from the screen; the lines stay."""
        self.live.stop()


class Waiting:
    """Says that a sweep waits for workers: at once, and again after pauses that grow from a minute to an hour.

    Args:
        say: shows a line to a person, or several.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.since: float | None = None
        """The monotonic time since which there is no worker; None while there is one."""
        self.next = 0.0

    def note(self, is_waiting: bool, reasons: Callable[[], Sequence[str]]) -> None:
        """Note whether the sweep waits now.

        Args:
            is_waiting: whether there is a stage to run, and no worker that could.
            reasons: lines that say why.
        """
        now = time.monotonic()
        if not is_waiting:
            self.since = None
        elif self.since is None:
            self.since, self.next = now, now + FIRST_PAUSE
            self.say("\n".join(["waiting for workers", *reasons()]))
        elif now >= self.next:
            age = now - self.since
            self.next = now + min(age, LONGEST_PAUSE)
            self.say("\n".join([f"still waiting for workers, for {duration(age)} now", *reasons()]))


def stage_of(step: Step) -> str:
    """Name the stage of dvc.yaml that a step belongs to."""
    return step.name.partition("@")[0]


def _left(step: Step, pulse: Pulse | None, expected: float | None) -> float | None:
    """Estimate the seconds until a running stage ends."""
    if pulse is not None and pulse.seconds_left is not None:
        return max(0.0, pulse.seconds_left - (time.time() - pulse.updated))
    return None if expected is None else max(0.0, expected - (time.time() - (step.started or time.time())))


def pulse_of(step: Step, by_name: dict[str, Pulse]) -> Pulse | None:
    """Return the pulse of a stage that runs; None where its file is older, and so of an attempt that was killed."""
    pulse = by_name.get(step.name.partition("@")[2])
    if pulse is None:
        return None
    slack = 0.0 if pulse.host == platform.node() else SKEW
    return pulse if pulse.updated >= (step.started or 0.0) - slack else None


def row(step: Step, pulse: Pulse | None) -> tuple[str, ...]:
    """Describe a stage that runs: its name, epoch, loss, images per second, time left, and worker."""
    if pulse is None:
        return (step.name, f"for {duration(time.time() - (step.started or time.time()))}", "", "", "", step.worker)
    return (step.name, *progress(pulse), step.worker or pulse.host)


def progress(pulse: Pulse) -> tuple[str, str, str, str]:
    """Put epoch, loss, images per second and time left into words."""
    return (
        f"epoch {pulse.epoch}/{pulse.epochs}",
        "" if pulse.loss is None else f"loss {pulse.loss:.3f}",
        f"{pulse.images_per_second:,.0f} images/s" if pulse.images_per_second else "",
        "" if pulse.seconds_left is None else f"{duration(pulse.seconds_left)} left",
    )


def time_left(waiting: Sequence[float | None], running: Sequence[float | None], jobs: int) -> float | None:
    """Estimate the seconds until all stages are done; None where that is not known of one of them.

    Args:
        waiting: seconds of each stage that waits.
        running: seconds left of each stage that runs.
        jobs: stages at a time.
    """
    known = [seconds for seconds in (*waiting, *running) if seconds is not None]
    if len(known) < len(waiting) + len(running) or not known:
        return None
    return max(sum(known) / jobs, *(seconds for seconds in running if seconds is not None), 0.0)


WIDTH = 160
"""Columns of output that goes to no terminal."""


def duration(seconds: float | None) -> str:
    """Write seconds in at most two units, rounded up: 45 s, 12 min, 3 h 20 min, 2 d 4 h; None is a question mark."""
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
    """Join words: a; a and b; a, b and c."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def shortened(names: Sequence[str], most: int = 5) -> str:
    """Join the first names, and say how many more there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def console() -> Console:
    """Make a console for tables: as wide as the terminal, or `WIDTH` columns where there is none and no COLUMNS."""
    plain = _RaisingConsole(highlight=False, emoji=False)  # rich would make a picture of the v in gpu:v:1
    return plain if plain.is_terminal else _RaisingConsole(highlight=False, emoji=False, width=max(plain.width, WIDTH))


class _RaisingConsole(Console):
    """Raises BrokenPipeError when its reader is gone, which `stages.run` turns into a silent end."""

    def on_broken_pipe(self) -> None:
        """Say nothing any more."""
        raise BrokenPipeError
