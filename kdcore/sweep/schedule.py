"""What may run next: steps, what they need, and what has become of them. Knows neither DVC nor Dask."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


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
