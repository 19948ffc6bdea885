"""Settings of training that most recipes do without: of transformers' optimisers, mixed images, and augmentations."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from kdcore.matrix import train_images
from kdcore.matrix.section import MOST, NonNegative, Section
from kdcore.matrix.train_images import ImageKeys

if TYPE_CHECKING:
    from kdcore.matrix.train_section import TrainSettings

WORD, MAPPING = "augmentation: a word", "augmentation: a mapping"
"""What pydantic calls the two forms of `augmentation` in the path of a problem."""
Optimizer = Literal["sgd", "dot", "adamw", "lamb"]
ADAPTIVE = ("adamw", "lamb")
"""Optimisers that scale the step of every weight by its past gradients."""
BETAS = (0.9, 0.999)
"""What `betas` is where an adaptive optimiser has none."""
Share = Annotated[float, Field(ge=0, lt=1)]
Compile = Annotated[Literal["auto", "off"], BeforeValidator(lambda given: "off" if given is False else given)]
"""YAML 1.1 reads off as false."""


class RandAugment(Section):
    """RandAugment as timm has it; without keys that of `rand-m9-mstd0.5-inc1`, the recipe of most transformers."""

    operations: Annotated[int, Field(ge=1, le=15)] = 2
    """How many operations are drawn for an image, with replacement; half of them are left out."""
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    """How strong operations are on average."""
    std: Annotated[float, Field(ge=0, le=100)] = 0.5
    """The magnitude of every operation is drawn from a normal distribution with this deviation, and kept within 0 and
    10."""
    increasing: bool = True
    """Whether a larger magnitude always changes an image more."""


class Augmentation(Section):
    """How training images are distorted, beside mirroring, which the data set decides."""

    crop: Literal["padded", "resized"] | None = None
    """padded: a window of the image, with a black border where the data set has one. resized: a part of 8 to 100
    percent of the area, resized to the whole. Absent: as the data set has it."""
    randaugment: RandAugment | None = None
    """Operations drawn for every image, as timm has them; `{}` takes the usual ones."""
    colour_jitter: Annotated[float, Field(gt=0, le=1)] | None = None
    """By how much brightness, contrast and saturation change at most, as shares."""
    erasing: Annotated[float, Field(gt=0, le=1)] | None = None
    """The probability that a rectangle of an image becomes noise."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """How resized crops and RandAugment find values between pixels; bicubic if absent."""
    joined: bool = False
    """Whether an epoch shows every image twice: as in evaluation, and augmented."""

    @model_validator(mode="after")
    def _says_something(self) -> "Augmentation":
        if not self.model_dump(exclude_defaults=True):
            raise ValueError("is a mapping that changes nothing; name an augmentation in it, or write standard")
        if self.interpolation is not None and self.randaugment is None and self.crop != "resized":
            raise ValueError(
                f"interpolation {self.interpolation} is for randaugment and for crop: resized; add one of them, or "
                "remove it"
            )
        return self

    def card(self) -> dict[str, Any]:
        """Return what takes effect, as a part of a card."""
        content = self.model_dump(exclude_none=True, exclude={"interpolation"})
        if not self.joined:
            del content["joined"]
        if self.randaugment is not None or self.crop == "resized":
            content["interpolation"] = self.interpolation or "bicubic"
        return content


def _form(given: Any) -> str:
    return MAPPING if isinstance(given, dict | Augmentation) else WORD


AnyAugmentation = Annotated[
    Annotated[Literal["standard", "none"], Tag(WORD)] | Annotated[Augmentation, Tag(MAPPING)], Discriminator(_form)
]


class RecipeKeys(ImageKeys):
    """Keys that change nothing where they are absent, or 0; `evaluate_every` where it is 1."""

    betas: Annotated[list[Share], Field(min_length=2, max_length=2)] | None = None
    """adamw and lamb alone: the shares of the old first and second moments of gradients in the new ones."""
    warmup_epochs: Annotated[int, Field(ge=0, le=MOST)] | None = None
    """Over how many epochs the rate rises to `lr`, along a line."""
    warmup_lr: NonNegative | None = None
    """The rate of the first of them; 0 if absent."""
    min_lr: NonNegative | None = None
    """Schedule cosine: the rate that it falls to; 0 if absent."""
    label_smoothing: Share | None = None
    """The share of a label that cross-entropy spreads evenly over all classes."""
    ema: Share | None = None
    """Decay of an average of the weights, per step, which is measured and kept beside the weights."""
    mixup: NonNegative | None = None
    """Two images are averaged, by a share from a Beta distribution with this parameter for both ends."""
    cutmix: NonNegative | None = None
    """A rectangle of one image is put into another; its area is a share drawn in the same way."""
    evaluate_every: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """A network is measured after every epoch whose number this divides, and after the last; 1 if absent."""

    compile: Compile | None = None
    """auto: steps are compiled where that pays (see `kdcore.training.compiler.chosen`). Absent, or off: never."""

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed."""
        return bool(self.mixup or self.cutmix)


def card(settings: "TrainSettings") -> dict[str, Any]:
    """Return the settings of a recipe that take effect, as a part of a card."""
    content = {key: getattr(settings, key) for key in RecipeKeys.model_fields if key != "betas"} | train_images.card(
        settings
    )
    content = {key: value for key, value in content.items() if value and (key, value) != ("evaluate_every", 1)}
    if settings.compile == "off" or settings.optimizer == "dot":
        content.pop("compile", None)
    if settings.optimizer in ADAPTIVE:
        content["betas"] = list(settings.moments)
    if settings.augmentation != "standard":
        named = settings.augmentation
        content["augmentation"] = named if isinstance(named, str) else named.card()
    return content


def check(settings: "TrainSettings") -> None:
    """Raise a ValueError where settings of a recipe contradict each other, or others."""
    train_images.check(settings)
    optimizer = settings.optimizer
    if settings.betas is not None and optimizer not in ADAPTIVE:
        raise ValueError(
            f"betas {settings.betas} are for optimizer adamw or lamb, not for {optimizer}, which has a momentum; "
            "remove betas, or change the optimizer"
        )
    if optimizer in ADAPTIVE and settings.nesterov:
        raise ValueError(f"optimizer {optimizer} has no nesterov; set nesterov: false")
    if settings.warmup_epochs and settings.warmup_epochs >= settings.epochs:
        raise ValueError(
            f"warmup_epochs ({settings.warmup_epochs}) must be below epochs ({settings.epochs}); lower it, or raise "
            "epochs"
        )
    if settings.warmup_lr and not settings.warmup_epochs:
        raise ValueError(f"warmup_lr ({settings.warmup_lr}) needs warmup_epochs; add them, or remove it")
    if settings.min_lr and settings.schedule == "step":
        raise ValueError(
            f"min_lr ({settings.min_lr}) is for schedule cosine, and schedule step has milestones; remove it, or set "
            "schedule: cosine"
        )
    for key in ("warmup_lr", "min_lr"):
        if (getattr(settings, key) or 0) > settings.lr:
            raise ValueError(f"{key} ({getattr(settings, key)}) must not be above lr ({settings.lr}); lower it")
