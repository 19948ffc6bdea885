"""The identity of one experiment: a cell of the matrix, with its name, stage and folder."""

from dataclasses import dataclass
from pathlib import Path

RUNS = Path("runs")
BASE = "base"
"""The variant that changes nothing."""
STAGES = ("train", "baseline")
"""The DVC stages that train cells: "train" those of logit methods, "baseline" all others."""
TRAININGS = ("teacher", *STAGES)
"""All DVC stages that train a network."""


@dataclass(frozen=True)
class Cell:
    """One point of the matrix. It says what is trained, but not how."""

    pair: str
    """The names of teacher and student, joined by "-", such as resnet56-resnet20."""
    method: str
    """The name of a logit method, or of a baseline: a feature method or "vanilla", which distils nothing."""
    seed: int
    scale: int | str | None = None
    """SDD's M, which selects pyramid levels (see `kdcore.catalog.levels`); None for baselines."""
    stand: bool | None = None
    """Whether logits are standardised; None for baselines."""
    named_network: str | None = None
    """The network of a teacher that has a name of its own; None where the teacher's name is that of its network."""
    variant: str = BASE
    """The name of the changes to recipe and training (see `kdcore.matrix.variants`); `BASE` has none."""

    @property
    def teacher(self) -> str:
        """The name of the teacher."""
        return self.pair.split("-")[0]

    @property
    def teacher_network(self) -> str:
        """The network of the teacher."""
        return self.named_network or self.teacher

    @property
    def networks(self) -> str:
        """The networks of teacher and student, joined by "-", by which papers name a pair."""
        return f"{self.teacher_network}-{self.student}"

    @property
    def student(self) -> str:
        """The name of the student network."""
        return self.pair.split("-")[1]

    @property
    def stage(self) -> str:
        """The DVC stage that trains the cell."""
        return "baseline" if self.scale is None else "train"

    @property
    def name(self) -> str:
        """The name that DVC shows behind "@": resnet56-resnet20-kd-2-True-base-0, or resnet56-resnet20-at-base-0."""
        axes = (self.pair, self.method, self.scale, self.stand, self.variant, self.seed)
        return "-".join(str(value) for value in axes if value is not None)

    @property
    def folder(self) -> Path:
        """The folder of the cell's results, relative to the project."""
        return RUNS / self.pair / self.name
