"""What may run next: steps, what they need, and what has become of them. Knows neither DVC nor Dask."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from kdcore.matrix.cell import Cell
from kdcore.matrix.params import Params
from kdcore.training.timings import Timing


class State(str, Enum):
    """Of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    """Made before; its outputs were brought back."""
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    BLOCKED = "blocked"
    """By a step that failed, or was left out."""
    STOPPED = "stopped"
    """By a person; the next run continues it."""


GOOD = (State.DONE, State.CACHED, State.UP_TO_DATE)
SETTLED = (*GOOD, State.FAILED, State.BLOCKED, State.STOPPED)


@dataclass
class Step:
    """One stage of the pipeline, and what has become of it."""

    name: str
    needs: tuple[str, ...]
    state: State = State.WAITING
    reason: str = ""
    """Why it failed, is blocked, or runs."""
    attempts: int = 0
    """Since it last got an epoch further."""
    epoch: int = 0
    """The last that it had finished when its worker was lost."""
    worker: str = ""
    started: float | None = None
    """Unix time."""
    seconds: float | None = None


@dataclass
class Schedule:
    """Steps in the order of a serial run.

    Args:
        steps: by name.
        rank: what runs first among those that may run: the step with the lowest.
    """

    steps: dict[str, Step]
    rank: Callable[[str], Any]

    @classmethod
    def of(cls, needs: Mapping[str, Iterable[str]], rank: Callable[[str], Any]) -> "Schedule":
        """All of them waiting.

        Args:
            needs: step -> those that it needs; those not among the steps are taken to be in place.
            rank: as above.
        """
        steps = {name: Step(name, tuple(sorted(set(above) & needs.keys()))) for name, above in needs.items()}
        return cls(steps, rank)

    def ready(self) -> list[str]:
        """Waiting steps whose needs are all in place, in the order in which they should run."""
        found = [
            name
            for name, step in self.steps.items()
            if step.state is State.WAITING and all(self.steps[above].state in GOOD for above in step.needs)
        ]
        return sorted(found, key=self.rank)

    def settle(self, name: str, state: State, reason: str = "") -> list[str]:
        """Say what has become of a step; returns the steps that are blocked by it, directly or not."""
        self.steps[name].state, self.steps[name].reason = state, reason
        if state is not State.FAILED:
            return []
        blocked = {name}
        for step in self.steps.values():  # in the order of a serial run: what a step needs stands above it
            if step.state is State.WAITING and blocked & set(step.needs):
                step.state, step.reason = State.BLOCKED, f"{name} failed"
                blocked.add(step.name)
        return sorted(blocked - {name})

    def count(self, *states: State) -> int:
        """Steps in one of these states."""
        return sum(step.state in states for step in self.steps.values())

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be done or waited for."""
        return self.count(State.WAITING, State.RUNNING) == 0


class Estimates:
    """Medians over trainings of the same cell; where there are none, of its student and method; else of its student.

    Args:
        timings: of this machine.
    """

    def __init__(self, timings: Iterable[Timing]) -> None:
        self.found: dict[tuple[str, ...], list[Timing]] = defaultdict(list)
        for timing in timings:
            for key in ((timing.name,), (timing.student, timing.method), (timing.student, "")):
                self.found[key].append(timing)

    def seconds(self, cell: Cell, epochs: int) -> float | None:
        """Of a cell's training; None if no network like its student was trained here."""
        like = self._like(cell)
        return median(timing.seconds / timing.epochs for timing in like) * epochs if like else None

    def bytes(self, cell: Cell) -> float | None:
        """Of a cell's results; None as above."""
        like = self._like(cell)
        return median(timing.bytes for timing in like) if like else None

    def _like(self, cell: Cell) -> list[Timing]:
        keys = ((cell.name,), (cell.student, cell.method), (cell.student, ""))
        return next((self.found[key] for key in keys if key in self.found), [])


class Order:
    """Ranks stages that may run at the same time.

    Stages that others wait for, or that end a table, come before cells. Baselines are short, and every table needs
    them. Cells of one teacher share the table of what it says. A pair's table is complete when all of its cells are, so
    the pair with the least work goes first, and in it the shortest cells.

    Args:
        params: the matrix.
        estimates: of its cells.
        steps: in the order of a serial run, which decides where nothing else does.
    """

    def __init__(self, params: Params, estimates: Estimates, steps: Sequence[str]) -> None:
        self.position = {step: number for number, step in enumerate(steps)}
        self.cells = {f"{cell.stage}@{cell.name}": cell for cell in params.cells()}
        self.seconds: dict[str, float | None] = {}
        self.work: dict[str, float] = defaultdict(float)
        """Seconds that are known of, by teacher and by pair."""
        for step, cell in self.cells.items():
            epochs = params.train.of(student=cell.student, method=cell.method, pair=cell.pair).epochs
            self.seconds[step] = estimates.seconds(cell, epochs)
            for whose in (cell.teacher, cell.pair):
                self.work[whose] += self.seconds[step] or 0.0

    def rank(self, step: str) -> tuple[Any, ...]:
        """Lower runs first."""
        position = self.position[step]
        cell = self.cells.get(step)
        if cell is None:
            return (0, position)
        is_baseline = cell.scale is None
        of_pair = (self.work[cell.teacher], cell.teacher, self.work[cell.pair], cell.pair)
        return (1 if is_baseline else 2, *of_pair, self.seconds[step] or 0.0, position)
