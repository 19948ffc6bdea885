"""One row of the tables for one pair: what was measured, what it gains, and what was published."""

from dataclasses import dataclass, field
from statistics import mean, stdev

from kdcore import catalog
from kdcore.results import significance
from kdcore.results.published import Figure
from kdcore.results.row import Row
from kdcore.results.significance import ALPHA, Comparison

PLAIN, STUDENT, KD = "plain", "student", "kd"
OVER = {PLAIN: "the method's plain row", STUDENT: "the student trained alone", KD: "plain KD"}
"""What gains are over, by their kind."""
BELOW, BUDGET = "↓", "§"
"""Mark a row that lies below the student trained alone, and one that was trained with another budget."""
MISSING, EXCLUDED = "missing", "excluded"
Place = tuple[str, Row]
"""The pair and the row of an entry."""


@dataclass(frozen=True)
class Gain:
    """How far a row lies above another one of its pair."""

    over: Row
    points: float
    """Percentage points."""
    shared: int | None = None
    """Over how many seeds it is, where the two rows have different ones: over those that both have."""
    compared: Comparison | None = None
    """The test over the seeds (`significance.in_blocks`); None where the seeds do not show their noise, or the two rows
    have different ones.
    """
    adjusted: float | None = None
    """The comparison's p, adjusted for all gains of the pair that are of its kind (`significance.holm`)."""
    is_unlike: bool = False
    """Whether the two rows differ in settings of training, and in something else too, so that it is of both."""

    @property
    def is_supported(self) -> bool:
        """Whether seeds support it: it is above 0, its adjusted p below `significance.ALPHA`, and it compares like with
        like.
        """
        return self.adjusted is not None and self.adjusted < ALPHA and self.points > 0 and not self.is_unlike

    @property
    def n(self) -> str:
        """Say over how many seeds it is, where the two rows have different ones: ", n = 1"; else nothing."""
        return "" if self.shared is None else f", n = {self.shared}"


@dataclass(frozen=True)
class Entry:
    """One row for one pair."""

    pair: str
    row: Row
    values: tuple[float, ...]
    """Accuracies in percent, one per seed that has a result, in the order of the matrix; one for the teacher."""
    declared: tuple[int, ...]
    """Seeds that are trained."""
    missing: tuple[int, ...] = ()
    """Seeds that are trained, and have no result."""
    excluded: tuple[int, ...] = ()
    """Seeds that params.yaml excludes."""
    figure: Figure | None = None
    """The published accuracy."""
    budget: tuple[str, ...] = ()
    """How its cells' training differs from what the caption says: other epochs, more views of each image."""
    gains: dict[str, Gain] = field(default_factory=dict)
    """Its gains by their kind (see `OVER`); none of a kind where there is no other row to compare with, a seed is
    missing in one of the two, or they share none.
    """

    @property
    def place(self) -> Place:
        """Its pair and row."""
        return self.pair, self.row

    @property
    def seeds(self) -> int:
        """How many seeds are trained."""
        return len(self.declared)

    @property
    def gain(self) -> float | None:
        """Percentage points above the method's plain row; None for that row itself and for rows without one."""
        return self.gains[PLAIN].points if PLAIN in self.gains else None

    @property
    def is_significant(self) -> bool:
        """Whether seeds support the gain over the plain row."""
        return PLAIN in self.gains and self.gains[PLAIN].is_supported

    @property
    def is_below_student(self) -> bool:
        """Whether distillation did harm: over the seeds of both, the mean lies below that of the student alone."""
        return self.row.method != catalog.VANILLA and STUDENT in self.gains and self.gains[STUDENT].points < 0

    @property
    def signs(self) -> str:
        """The marks behind its accuracy or gain: "", " ↓", " §" or " ↓ §"."""
        return (f" {BELOW}" if self.is_below_student else "") + (f" {BUDGET}" if self.budget else "")

    @property
    def lacks(self) -> str:
        """Say why there is no mean: "missing", "missing (1 of 3)" or "excluded"; empty where there is one."""
        if not self.missing:
            return "" if self.values else EXCLUDED
        return MISSING if len(self.missing) == self.seeds else f"{MISSING} ({len(self.missing)} of {self.seeds})"

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that are trained, in percent; None where one is missing, because no seed is left out of
        a mean, and where all are excluded.
        """
        return None if self.lacks else mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for one seed, or where one is missing."""
        return None if self.missing or len(self.values) < 2 else stdev(self.values)

    @property
    def difference(self) -> float | None:
        """Measured minus published, percentage points."""
        return None if self.mean is None or self.figure is None else self.mean - self.figure.top1

    @property
    def is_within_noise(self) -> bool | None:
        """Whether the published figure is one that another seed might have given; None where seeds cannot tell."""
        if self.figure is None or self.difference is None:
            return None
        allowed = significance.noise(self.values, self.figure.runs)
        return None if allowed is None else abs(self.difference) <= allowed
