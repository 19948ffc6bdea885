"""What a cell will take, from what earlier trainings on this machine took."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from kdcore.cell import Cell
from kdcore.timings import Timing


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
