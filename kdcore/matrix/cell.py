"""The identity of one experiment."""

from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
STAGES = ("train", "baseline")
"""The DVC stages that train cells: of logit methods, and of baselines."""
TRAININGS = ("teacher", *STAGES)
"""The DVC stages that train a network."""


@dataclass(frozen=True)
class Cell:
    """One point of the matrix: what is trained, nothing about how."""

    pair: str
    """ "teacher-student"."""
    method: str
    """A logit method, or a baseline: a feature method or "vanilla"."""
    seed: int
    scale: int | str | None = None
    """SDD's M (see `kdcore.scales.levels`); None for baselines."""
    stand: bool | None = None
    """Logit standardisation; None for baselines."""

    @property
    def teacher(self) -> str:
        """Network name."""
        return self.pair.split("-")[0]

    @property
    def student(self) -> str:
        """Network name."""
        return self.pair.split("-")[1]

    @property
    def stage(self) -> str:
        """The DVC stage that trains it."""
        return "baseline" if self.scale is None else "train"

    @property
    def name(self) -> str:
        """The name that DVC shows behind "@": resnet56-resnet20-kd-2-True-0, or resnet56-resnet20-at-0."""
        axes = (self.pair, self.method, self.scale, self.stand, self.seed)
        return "-".join(str(value) for value in axes if value is not None)

    @property
    def folder(self) -> Path:
        """The folder of its results, relative to the project."""
        return RUNS / self.pair / self.name
