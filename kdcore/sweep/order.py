"""What runs first: baselines, then the cells of one teacher together, of its pairs the one that is done soonest."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from kdcore.params import Params
from kdcore.sweep.estimates import Estimates


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
