"""Section `train` of params.yaml: how every network is trained, and the exceptions that papers make."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from typing_extensions import Self

from kdcore import catalog
from kdcore.matrix.section import MOST, Count, Fraction, NonNegative, Positive, Section
from kdcore.system.errors import UserError, shown

SELECTORS = ("students", "methods", "pairs")
MOST_THREADS = 1024


def _check_threads(given: Any) -> Any:
    if given != "auto" and not (type(given) is int and 1 <= given <= MOST_THREADS):
        raise ValueError(f"{given!r} must be auto, or a number of CPU threads from 1 to {MOST_THREADS}")
    return given


def _check_milestone(given: Any) -> Any:
    is_epoch = type(given) is int and 1 <= given <= MOST
    if not is_epoch and not (type(given) is float and 0 < given < 1):
        raise ValueError(
            f"{shown(given)} must be an epoch from 1 to {MOST:,}, or a share of the epochs above 0 and below 1"
        )
    return given


Milestones = list[Annotated[int | float, BeforeValidator(_check_milestone)]]


def as_epochs(milestones: Milestones, epochs: int) -> list[int]:
    """Return milestones as whole epochs. A share becomes the nearest epoch; halfway between two, the later one.

    Args:
        milestones: all epochs, or all shares of `epochs`.
        epochs: how many epochs are trained.
    """
    exact = [Decimal(str(milestone)) * (epochs if isinstance(milestone, float) else 1) for milestone in milestones]
    return [int(epoch.to_integral_value(ROUND_HALF_UP)) for epoch in exact]


class SpecialCase(Section):
    """Other settings for the cells that all of its selectors name."""

    students: list[str] | None = None
    methods: list[str] | None = None
    pairs: list[str] | None = None
    epochs: Count | None = None
    batch_size: Annotated[int, Field(ge=2, le=10**6)] | None = None
    lr: Positive | None = None
    weight_decay: NonNegative | None = None
    milestones: Milestones | None = None
    grad_clip_norm: Positive | None = None
    small_maps: Literal["repeat"] | None = None

    @model_validator(mode="after")
    def _means_something(self) -> "SpecialCase":
        given = {key: value for key, value in self.model_dump(exclude_none=True).items() if value != []}
        if not given.keys() & set(SELECTORS) or not given.keys() - set(SELECTORS):
            raise ValueError(
                f"needs a selector ({', '.join(SELECTORS)}) and a setting "
                f"({', '.join(key for key in type(self).model_fields if key not in SELECTORS)})"
            )
        for student in self.students or []:
            catalog.check_known(student, list(catalog.networks()), "network")
        for method in self.methods or []:
            catalog.terms(method)
        for pair in self.pairs or []:
            catalog.check_pair(pair, [pair.partition("-")[0]])  # its teacher is looked up in `Params`
        return self

    def covers(self, *, student: str, method: str, pair: str) -> bool:
        """Whether all of its selectors name this cell."""
        chosen = ((self.students, student), (self.methods, method), (self.pairs, pair))
        return all(names is None or name in names for names, name in chosen)

    def settings(self) -> dict[str, Any]:
        """What it changes."""
        return self.model_dump(exclude_none=True, exclude=set(SELECTORS))


class TrainSettings(Section):
    """How a network is trained: the optimiser, its schedule, the batch, and the precision."""

    optimizer: Literal["sgd", "dot"] = "sgd"
    """sgd: with momentum. dot: the distillation-oriented optimiser, with separate momenta for task and distillation."""
    dot_delta: Fraction | None = None
    """dot alone: by how much distillation's momentum is above `momentum`, and the task's below."""
    epochs: Count
    batch_size: Annotated[int, Field(ge=2, le=10**6)]
    """At least two, for batch norm."""
    lr: Positive
    """The learning rate of the first epoch."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    """Whether a step looks ahead along the momentum (Sutskever et al., ICML 2013)."""
    weight_decay: NonNegative = 0.0005
    schedule: Literal["step", "cosine"] = "step"
    milestones: Milestones = Field(default_factory=list)
    """Step schedule: epochs, counted from 1, after which the rate is multiplied by `lr_decay`; all as whole epochs, or
    all as shares of `epochs` (see `as_epochs`).
    """
    lr_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    grad_clip_norm: Positive | None = None
    """Longest gradient of all parameters together; longer ones are scaled down to it. Absent: none is."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """The type in which convolutions and matrix products are computed in training. auto: bfloat16 where the hardware
    multiplies it, else float32."""
    threads: Annotated[int | Literal["auto"], BeforeValidator(_check_threads)] = "auto"
    """CPU threads that train and measure networks; they decide how sums are rounded, and so the bits of all results.
    auto: as many as torch takes by itself: OMP_NUM_THREADS, or all cores."""
    small_maps: Literal["repeat"] | None = None
    """What becomes of regions if a final map has fewer cells than the finest level: they are refused if this is absent.
    repeat: regions share cells, as in SDD's published results of MobileNetV2, whose map has 2 x 2 cells."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.optimizer == "dot":
            self._check_dot()
        elif self.dot_delta is not None:
            raise ValueError("dot_delta is for optimizer dot; remove it, or set optimizer: dot")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.schedule == "step":
            if not self.milestones or self.lr_decay is None:
                raise ValueError("schedule step needs milestones and lr_decay")
            self._check_milestones()
        return self

    def _check_milestones(self) -> None:
        if len({type(milestone) for milestone in self.milestones}) > 1:
            raise ValueError(f"milestones {shown(self.milestones)} must be all epochs, or all shares of the epochs")
        found = as_epochs(self.milestones, self.epochs)
        if found == sorted(set(found)) and found[0] > 0 and found[-1] < self.epochs:
            return
        are_shares = isinstance(self.milestones[0], float)
        become = f" become epochs {shown(found)}, which" if are_shares else ""
        advice = "raise epochs" if are_shares else "write them as shares of the epochs ([0.625, 0.75, 0.875])"
        raise ValueError(
            f"milestones {shown(self.milestones)}{become} must rise and stay below epochs ({self.epochs}); "
            f"change them together, {advice}, or use schedule cosine"
        )

    def _check_dot(self) -> None:
        if self.dot_delta is None:
            raise ValueError("optimizer dot needs dot_delta; its paper has 0.075 (0.09 on ImageNet)")
        if self.nesterov:
            raise ValueError("optimizer dot has no nesterov; set nesterov: false")
        if self.grad_clip_norm is not None:
            raise ValueError("optimizer dot has no grad_clip_norm; remove it")
        if not 0 <= self.momentum - self.dot_delta < self.momentum + self.dot_delta < 1:
            raise ValueError(
                f"optimizer dot needs momentum ± dot_delta ({self.momentum} ± {self.dot_delta}) within 0 and 1"
            )


def stretched(settings: TrainSettings, epochs: int, where: str) -> TrainSettings:
    """Return training settings for another number of epochs, with milestones at the same shares of it.

    Args:
        settings: those of the old number.
        epochs: the new number of epochs.
        where: names the option that gives the number, for messages.

    Raises:
        UserError: the number is out of range, or leaves no room for the milestones.
    """
    if not 1 <= epochs <= MOST:
        raise UserError(f"{where}: {shown(epochs)} must be from 1 to {MOST:,}")
    milestones = settings.milestones
    if settings.schedule == "step" and isinstance(milestones[0], int):
        moved = [Decimal(milestone) * epochs / settings.epochs for milestone in milestones]
        milestones = [int(epoch.to_integral_value(ROUND_HALF_UP)) for epoch in moved]
    try:
        return TrainSettings.model_validate({**settings.model_dump(), "epochs": epochs, "milestones": milestones})
    except ValidationError as error:
        become = shown(as_epochs(milestones, epochs))
        raise UserError(
            f"{where}: {epochs} leaves no room for train.milestones, which become {become}; give it more"
        ) from error


class Train(TrainSettings):
    """Section `train`: how students are trained, and the exceptions that papers make."""

    exceptions: list[SpecialCase] = Field(default_factory=list)
    """Other settings for some of the cells; later ones win."""

    def of(self, *, student: str, method: str, pair: str) -> TrainSettings:
        """The settings of one cell.

        Raises:
            ValueError: they contradict each other.
        """
        changes: dict[str, Any] = {}
        for exception in self.exceptions:
            if exception.covers(student=student, method=method, pair=pair):
                changes |= exception.settings()
        return TrainSettings.model_validate({**self.model_dump(exclude={"exceptions"}), **changes})
