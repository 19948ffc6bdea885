"""Settings of which training images a network sees, and under which labels: regimes of training data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from kdcore.matrix.section import Fraction, Section

if TYPE_CHECKING:
    from kdcore.matrix.train_section import TrainSettings

KINDS = ("symmetric", "pairflip")
LABEL_NOISE = "label_noise"
AMOUNTS = ("per_class", "share", "long_tail")
"""The settings that say how many images of a class are used; a network has one of them, or none."""
MOST_PAIRFLIP = 0.5
"""From this rate on most images of a class have the next class's label, and no network can tell which is right."""


class LabelNoise(Section):
    """Wrong labels of training images. Validation and test images keep theirs."""

    kind: Literal["symmetric", "pairflip"]
    """symmetric: another class, each as likely as the others; never the true one. pairflip: the next class, and the
    first for the last. Both as in Han et al., Co-teaching, NeurIPS 2018, arXiv:1804.06872."""
    rate: Fraction
    """The share of the labels of every class that are replaced."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides which labels are replaced, and by what: the same for every method, pair and seed of training."""

    @model_validator(mode="after")
    def _can_be_learnt(self) -> "LabelNoise":
        if self.kind == "pairflip" and self.rate >= MOST_PAIRFLIP:
            raise ValueError(
                f"rate {self.rate:g}: kind pairflip must stay below {MOST_PAIRFLIP:g}, or no more images of a class "
                "have its label than the next one's; the field has 0.45 at most. Lower it, or set kind: symmetric"
            )
        return self


class ImageKeys(Section):
    """Keys of regimes of training data; without them a network sees all training images under their labels."""

    share: Fraction | None = None
    """The share of the training images of every class that are used, the first ones beside those kept for validation;
    at least one of each class. All if absent."""
    long_tail: Annotated[float, Field(gt=1, le=10**6)] | None = None
    """How many times more images the first class has than the last one; those between fall off exponentially, as in Cao
    et al., LDAM, NeurIPS 2019, arXiv:1906.07413. Absent: as the data set has them."""
    label_noise: LabelNoise | None = None
    """Wrong labels of some of the images that are used."""


def check(settings: "TrainSettings") -> None:
    """Raise a ValueError where two settings say how many images of a class are used."""
    given = {key: value for key in AMOUNTS if (value := getattr(settings, key)) is not None}
    if len(given) > 1:
        said = ", ".join(f"{key}: {value:g}" for key, value in given.items())
        raise ValueError(
            f"{said}: each says how many training images of a class are used; keep one of them (null takes one of "
            "section train away in a variant)"
        )


def card(settings: ImageKeys) -> dict[str, Any]:
    """Return the settings that are there, as a part of a card."""
    return settings.model_dump(include=set(ImageKeys.model_fields), exclude_none=True)


def is_set(train: Mapping[str, Any]) -> bool:
    """Return whether the settings of a card's section `train` hold one of `ImageKeys`."""
    return any(train.get(key) is not None for key in ImageKeys.model_fields)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with label noise as a number: {label_noise.symmetric: 0.4}, and its seed where that is not 0."""
    noise = settings.get(LABEL_NOISE)
    if not isinstance(noise, Mapping):
        return dict(settings)
    others = {key: value for key, value in settings.items() if key != LABEL_NOISE}
    seed = {f"{LABEL_NOISE}.seed": str(noise["seed"])} if noise.get("seed") else {}
    return {**others, f"{LABEL_NOISE}.{noise['kind']}": noise["rate"], **seed}


def as_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as `flat` does, and what is absent from a regime as its number: all images are a share of 1, a
    balanced set has a long tail of 1, and no noise is a rate of 0 of either kind.
    """
    filled = {key: 1 if key in ("share", "long_tail") and value is None else value for key, value in settings.items()}
    if LABEL_NOISE not in settings:
        return filled
    absent = {f"{LABEL_NOISE}.{kind}": 0 for kind in KINDS}
    given = flat({LABEL_NOISE: filled.pop(LABEL_NOISE)})
    given.pop(LABEL_NOISE, None)
    return {**filled, **absent, **given}


def in_words(settings: Mapping[str, Any]) -> str:
    """Describe a regime in words: "a share of 0.1 of the training images of each class, label noise (symmetric 0.4)";
    empty where there is none.

    Args:
        settings: those of a card; other keys do not matter.
    """
    parts = []
    if share := settings.get("share"):
        parts.append(f"a share of {share:g} of the training images of each class")
    if factor := settings.get("long_tail"):
        parts.append(f"a long tail of the training images (the first class has {factor:g} times those of the last)")
    if noise := settings.get(LABEL_NOISE):
        parts.append(f"label noise ({noise if isinstance(noise, str) else noise_in_words(noise)})")
    return ", ".join(parts)


def noise_in_words(noise: Mapping[str, Any]) -> str:
    """Write label noise in short: "symmetric 0.4", with its seed where that is not 0."""
    return f"{noise['kind']} {noise['rate']:g}" + (f", seed {noise['seed']}" if noise.get("seed") else "")
