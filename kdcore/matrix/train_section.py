"""Section `train` of params.yaml: how every network is trained, and the exceptions that papers make."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator
from typing_extensions import Self

from kdcore import catalog
from kdcore.matrix import train_recipe
from kdcore.matrix.cell import Cell
from kdcore.matrix.section import MOST, Count, Fraction, NonNegative, Positive
from kdcore.matrix.selector import SELECTORS, Selector
from kdcore.matrix.train_recipe import BETAS, AnyAugmentation, Augmentation, Optimizer, RecipeKeys
from kdcore.system.errors import UserError, shown

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
Schedule = Literal["step", "cosine"]
Share = Annotated[float, Field(gt=0, le=1)]


def as_epochs(milestones: Milestones, epochs: int) -> list[int]:
    """Return milestones as whole epochs. A share becomes the nearest epoch; halfway between two, the later one.

    Args:
        milestones: all epochs, or all shares of `epochs`.
        epochs: how many epochs are trained.
    """
    exact = [Decimal(str(milestone)) * (epochs if isinstance(milestone, float) else 1) for milestone in milestones]
    return [int(epoch.to_integral_value(ROUND_HALF_UP)) for epoch in exact]


class SpecialCase(Selector, RecipeKeys):
    """Other settings for the cells that all of its selectors name."""

    epochs: Count | None = None
    batch_size: Annotated[int, Field(ge=2, le=10**6)] | None = None
    lr: Positive | None = None
    weight_decay: NonNegative | None = None
    schedule: Schedule | None = None
    milestones: Milestones | None = None
    lr_decay: Share | None = None
    grad_clip_norm: Positive | None = None
    small_maps: Literal["repeat"] | None = None
    per_class: Count | None = None
    augmentation: AnyAugmentation | None = None
    optimizer: Optimizer | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    nesterov: bool | None = None

    @model_validator(mode="after")
    def _means_something(self) -> "SpecialCase":
        if not self.settings():
            of_recipe = list(RecipeKeys.model_fields)
            own = [key for key in type(self).model_fields if key not in (*SELECTORS, *of_recipe)]
            raise ValueError(f"needs a setting ({', '.join([*own, *of_recipe])})")
        return self

    def settings(self) -> dict[str, Any]:
        """What it changes."""
        return self.model_dump(exclude_none=True, exclude=set(SELECTORS))


class TrainSettings(RecipeKeys):
    """How a network is trained: the optimiser, its schedule, the batch, and the precision."""

    optimizer: Optimizer = "sgd"
    """sgd: with momentum. dot: the distillation-oriented optimiser, with separate momenta for task and distillation.
    adamw, lamb: adaptive, with `betas` instead of `momentum`, and without weight decay of vectors and positions."""
    dot_delta: Fraction | None = None
    """dot alone: by how much distillation's momentum is above `momentum`, and the task's below."""
    epochs: Count
    """How often every training image is seen."""
    batch_size: Annotated[int, Field(ge=2, le=10**6)]
    """At least two, for batch norm."""
    lr: Positive
    """The learning rate of the first epoch."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The share of the last step's direction that the next one keeps."""
    nesterov: bool = False
    """Whether a step looks ahead along the momentum (Sutskever et al., ICML 2013)."""
    weight_decay: NonNegative = 0.0005
    """How strongly a step draws weights towards 0."""
    schedule: Schedule = "step"
    """How the rate falls. step: at `milestones`. cosine: along half a cosine, to `min_lr`."""
    milestones: Milestones = Field(default_factory=list)
    """Step schedule: epochs, counted from 1, after which the rate is multiplied by `lr_decay`; all as whole epochs, or
    all as shares of `epochs` (see `as_epochs`).
    """
    lr_decay: Share | None = None
    """Step schedule: what the rate is multiplied by at each milestone."""
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
    per_class: Count | None = None
    """How many training images of each class are used, the first ones beside those kept for validation; all if absent.
    """
    augmentation: AnyAugmentation = "standard"
    """How training images are seen. standard: as the data set's augmentation has it. none: as in evaluation. Else what
    `kdcore.matrix.train_recipe.Augmentation` says."""

    @property
    def moments(self) -> tuple[float, float]:
        """`betas`, or what they are where there are none."""
        first, second = self.betas or BETAS
        return first, second

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
        train_recipe.check(self)
        return self

    def _check_milestones(self) -> None:
        if len({type(milestone) for milestone in self.milestones}) > 1:
            raise ValueError(f"milestones {shown(self.milestones)} must be all epochs, or all shares of the epochs")
        found = as_epochs(self.milestones, self.epochs)
        if found == sorted(set(found)) and found[0] > 0 and found[-1] < self.epochs:
            if self.warmup_epochs and self.warmup_epochs >= found[0]:
                raise ValueError(
                    f"warmup_epochs ({self.warmup_epochs}) must be below the first milestone (epoch {found[0]}), at "
                    "which the rate falls; lower it, or move the milestone"
                )
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
    """Return training settings for another number of epochs, with milestones and warm-up at the same shares of it.

    Args:
        settings: those of the old number.
        epochs: the new number of epochs.
        where: names the option that gives the number, for messages.

    Raises:
        UserError: the number is out of range, or leaves no room for the milestones.
    """
    if not 1 <= epochs <= MOST:
        raise UserError(f"{where}: {shown(epochs)} must be from 1 to {MOST:,}")
    milestones, warmup = settings.milestones, settings.warmup_epochs
    if warmup:
        share = Decimal(warmup) * epochs / settings.epochs
        warmup = min(int(share.to_integral_value(ROUND_HALF_UP)), epochs - 1)
    if settings.schedule == "step" and isinstance(milestones[0], int):
        moved = [Decimal(milestone) * epochs / settings.epochs for milestone in milestones]
        milestones = [int(epoch.to_integral_value(ROUND_HALF_UP)) for epoch in moved]
    try:
        warm = {"warmup_epochs": warmup, "warmup_lr": settings.warmup_lr if warmup else None}
        return TrainSettings.model_validate(
            {**settings.model_dump(), "epochs": epochs, "milestones": milestones, **warm}
        )
    except ValidationError as error:
        become = shown(as_epochs(milestones, epochs))
        raise UserError(
            f"{where}: {epochs} leaves no room for train.milestones, which become {become}; give it more"
        ) from error


class Train(TrainSettings):
    """Section `train`: how students are trained, and the exceptions that papers make."""

    exceptions: list[SpecialCase] = Field(default_factory=list)
    """Other settings for some of the cells; later ones win."""

    _known: dict[Any, TrainSettings] = PrivateAttr(default_factory=dict)
    """Settings that were validated before: most cells of a matrix have the same."""

    def of(self, cell: Cell, changes: dict[str, Any]) -> TrainSettings:
        """The settings of one cell.

        Args:
            cell: decides which exceptions there are for it.
            changes: those of its variant, which override the exceptions'.

        Raises:
            ValueError: they contradict each other, or the method's views.
        """
        covering = tuple(number for number, case in enumerate(self.exceptions) if case.covers(cell))
        key = covering, repr(changes)
        if key not in self._known:
            values = self.model_dump(exclude={"exceptions"})
            for number in covering:
                values |= self.exceptions[number].settings()
            self._known[key] = TrainSettings.model_validate({**values, **changes})
        _check_images(self._known[key], cell.method)
        return self._known[key]


def _check_images(settings: TrainSettings, method: str) -> None:
    """Raise a ValueError where a method cannot do with training images as the settings have them."""
    for entry in catalog.terms(method):
        if settings.augmentation == "none" and len(entry.views) > 1:
            raise ValueError(
                f"train.augmentation: none: method {entry.name} sees {' and '.join(entry.views)} views of each image, "
                "and the strong view is an augmentation; leave the method out, or set augmentation: standard for it in "
                "train.exceptions"
            )
        joined = isinstance(settings.augmentation, Augmentation) and settings.augmentation.joined
        if joined and len(entry.views) > 1:
            raise ValueError(
                f"train.augmentation.joined: true: method {entry.name} sees {' and '.join(entry.views)} views of each "
                "image, and a plain copy has one; leave the method out, or set joined: false"
            )
        if settings.mixes and entry.target == "refused":
            given = {key: value for key in ("mixup", "cutmix") if (value := getattr(settings, key))}
            raise ValueError(
                f"train.{', '.join(f'{key}: {value}' for key, value in given.items())}: method {entry.name} corrects a "
                "teacher that names another class than the label, and a mixed image has two; leave the method out, or "
                f"set {', '.join(f'{key}: 0' for key in given)} for it in train.exceptions"
            )
