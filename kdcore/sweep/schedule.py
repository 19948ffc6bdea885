"""Steps, what they need, how far they are, and which of them runs next; without DVC and Dask."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from statistics import median
from typing import Any

from kdcore.matrix.cell import Cell
from kdcore.matrix.params import Params
from kdcore.training.timings import Timing


class State(str, Enum):
    """How far a step is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    CACHED = "cached"
    """It was run before, and its outputs were brought back from DVC's cache."""
    UP_TO_DATE = "up to date"
    LEFT_OUT = "left out"
    """A cell that the matrix leaves out: it has its marker."""
    FAILED = "failed"
    BLOCKED = "blocked"
    """A step that it needs has failed."""
    STOPPED = "stopped"
    """A person has ended the sweep; the next one continues the step."""


GOOD = (State.DONE, State.CACHED, State.UP_TO_DATE, State.LEFT_OUT)
SETTLED = (*GOOD, State.FAILED, State.BLOCKED, State.STOPPED)


@dataclass
class Step:
    """One stage of the pipeline, and how far it is."""

    name: str
    needs: tuple[str, ...]
    state: State = State.WAITING
    reason: str = ""
    """Why it failed or is blocked."""
    attempts: int = 0
    """How often it was started since it last got an epoch further."""
    epoch: int = 0
    """The last epoch that it had finished when its worker was lost."""
    worker: str = ""
    started: float | None = None
    """Unix time."""
    seconds: float | None = None


@dataclass
class Schedule:
    """Steps, and which of them may run.

    Args:
        steps: name -> step, in the order of a serial run.
        rank: a key by which steps that may run are sorted; the lowest runs first.
    """

    steps: dict[str, Step]
    rank: Callable[[str], Any]

    @classmethod
    def of(cls, needs: Mapping[str, Iterable[str]], rank: Callable[[str], Any]) -> "Schedule":
        """Make a schedule in which all steps wait.

        Args:
            needs: step -> the steps that it needs; those that are no keys are taken to be done.
            rank: a key by which steps that may run are sorted.
        """
        steps = {name: Step(name, tuple(sorted(set(above) & needs.keys()))) for name, above in needs.items()}
        return cls(steps, cache(rank))

    def ready(self) -> list[str]:
        """List the waiting steps whose needs are all done, in the order in which they should run."""
        names = [
            name
            for name, step in self.steps.items()
            if step.state is State.WAITING and all(self.steps[above].state in GOOD for above in step.needs)
        ]
        return sorted(names, key=self.rank)

    def settle(self, name: str, state: State, reason: str = "") -> list[str]:
        """Note how a step has ended; returns the steps that its failure blocks, directly or not."""
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
        """Count the steps in one of these states."""
        return sum(step.state in states for step in self.steps.values())

    @property
    def is_finished(self) -> bool:
        """Whether no step waits or runs."""
        return self.count(State.WAITING, State.RUNNING) == 0


class Estimates:
    """Estimates the cost of a cell by the median of earlier trainings: those of the cell itself, or else of its student
    with its method, or else of its student.

    Args:
        timings: of trainings on this machine.
    """

    def __init__(self, timings: Iterable[Timing]) -> None:
        self.by_key: dict[tuple[str, ...], list[Timing]] = defaultdict(list)
        for timing in timings:
            for key in ((timing.name,), (timing.student, timing.method), (timing.student, "")):
                self.by_key[key].append(timing)

    def seconds(self, cell: Cell, epochs: int) -> float | None:
        """Estimate the seconds of a cell's training; None if its student was never trained here."""
        like = self._like(cell)
        return median(timing.seconds / timing.epochs for timing in like) * epochs if like else None

    def bytes(self, cell: Cell) -> float | None:
        """Estimate the size of a cell's results; None if its student was never trained here."""
        like = self._like(cell)
        return median(timing.bytes for timing in like) if like else None

    def _like(self, cell: Cell) -> list[Timing]:
        keys = ((cell.name,), (cell.student, cell.method), (cell.student, ""))
        return next((self.by_key[key] for key in keys if key in self.by_key), [])


class Order:
    """Ranks stages that may run at the same time.

    Stages that are no cells come first, for others wait for them or they complete a table. Baselines come next: they
    are short, and every table needs them. Cells with the same teacher follow each other, for they share its cached
    outputs. The pair with the least work goes first, and in it the shortest cells, so that tables are complete early.

    Args:
        params: the matrix.
        estimates: of the time of its cells.
        steps: all stages, in the order of a serial run, which decides between equals.
    """

    def __init__(self, params: Params, estimates: Estimates, steps: Sequence[str]) -> None:
        self.position = {step: number for number, step in enumerate(steps)}
        self.cells = {f"{cell.stage}@{cell.name}": cell for cell in params.cells()}
        self.seconds: dict[str, float | None] = {}
        self.work: dict[str, float] = defaultdict(float)
        """Teacher or pair -> the seconds of all its cells, as far as they are known."""
        for step, cell in self.cells.items():
            epochs = params.settings(cell).epochs
            self.seconds[step] = estimates.seconds(cell, epochs)
            for whose in (cell.teacher, cell.pair):
                self.work[whose] += self.seconds[step] or 0.0

    def rank(self, step: str) -> tuple[Any, ...]:
        """Return a key by which stages are sorted; the lowest runs first."""
        position = self.position[step]
        cell = self.cells.get(step)
        if cell is None:
            return (0, position)
        is_baseline = cell.scale is None
        of_pair = (self.work[cell.teacher], cell.teacher, self.work[cell.pair], cell.pair)
        return (1 if is_baseline else 2, *of_pair, self.seconds[step] or 0.0, position)
