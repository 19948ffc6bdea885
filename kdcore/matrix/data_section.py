"""Section `data` of params.yaml: which data set is used, and where it comes from."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from kdcore.matrix.section import Fraction, Mean, Section, Std, Text, is_number
from kdcore.system import workspace
from kdcore.system.errors import UserError, named, shown
from kdcore.system.files import expanded

IMAGE_FOLDER, PARQUET = "folder:", "parquet:"
Stem = Literal["small", "large"]
"""The first layer of networks that are made for 32 x 32 images. small is as published; large is a convolution of 7 x 7
pixels with stride 2, for larger images.
"""


def _white(value: Any) -> Any:
    low, high = value if isinstance(value, list) and len(value) == 2 else (0, value)
    numbers = is_number(low, int) and is_number(high, int) and 0 <= low < high <= 65535
    if value not in (None, "largest") and not numbers:
        raise ValueError(
            f"{shown(value)}: must be the 16-bit value that becomes white, a whole number from 1 to 65535 such as "
            "4095; or those that become black and white, such as [29000, 32000]; or largest: the largest of the "
            "training images"
        )
    return value


def _colour(value: Any) -> Any:
    numbers = isinstance(value, list) and all(is_number(part, int) and 0 <= part <= 255 for part in value)
    if value not in (None, "white", "black") and not (numbers and len(value) == 3):
        raise ValueError(
            f"{shown(value)}: must be white, black, or the red, green and blue of a colour from 0 to 255, for example "
            "[128, 128, 128]"
        )
    return value


class Source(Section):
    """What the sections of all data sets have in common."""

    mean: Mean | None = None
    """Mean of each channel (red, green, blue) by which images are normalised, of values from 0 to 1; if absent, the
    published one, or that of the training images.
    """
    std: Std | None = None
    """Standard deviation of each channel, for the same."""
    validation: Fraction | None = Field(default=None, exclude=True)
    """The share of the training images of every class that no network is trained on, and that every epoch is measured
    on; none if absent. The data set is stored with all of them, so its card does not hold this key.
    """

    @model_validator(mode="after")
    def _both(self) -> "Source":
        if (self.mean is None) != (self.std is None):
            given, other = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is set, but not {other}; set both, three numbers each, or none")
        return self

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out optional keys that are not set, but for `ALWAYS`: cards are as they were before these keys."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if value is not None or key in ALWAYS}


ALWAYS = ("augmentation", "stem", "test_share", "train_per_class")
"""Optional keys that cards always had."""


class Parquet(Source):
    """A data set that may be read from parquet files."""

    image_column: Text | None = None
    """The column of parquet files that holds the images; if absent, the only one that can."""
    label_column: Text | None = None
    """The column of parquet files that holds the classes; if absent, the only one with a usual name."""


def _check_bare(source: str) -> str:
    for prefix in (IMAGE_FOLDER, PARQUET):
        if source.startswith(prefix):
            raise ValueError(f"{shown(source)}: a data set of this name takes the path alone, without {prefix}")
    return source


Copy = Annotated[Text, AfterValidator(_check_bare)]
"""The source of a published data set: its layout is known, or found out."""


class Digits(Source):
    """Scikit-learn's handwritten digits, which need no download."""

    name: Literal["digits"]
    """Chooses this data set."""
    source: Literal["embedded"]
    """They come with scikit-learn."""
    image_size: Literal[16, 32]
    """Height and width to which the images, 8 x 8 as they come, are enlarged, in pixels."""
    train_per_class: Annotated[int, Field(ge=1, le=80)]
    """How many training images of each class are used; with few of them, networks differ in accuracy."""


class Cifar100(Parquet):
    """CIFAR-100: 32 x 32 pixels, 100 classes."""

    name: Literal["cifar100"]
    """Chooses this data set."""
    source: Copy
    """ "download", or the path of the archive, of the folder extracted from it, or of a folder of parquet files."""
    train_per_class: Annotated[int, Field(ge=1, le=500)] | None = None
    """How many training images of each class are used; all 500 if absent."""


class TinyImagenet(Source):
    """Tiny-ImageNet: 64 x 64 pixels, 200 classes."""

    name: Literal["tiny_imagenet"]
    """Chooses this data set."""
    source: Copy
    """ "download", or the path of the archive or of the extracted folder."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Stl10(Source):
    """STL-10: 96 x 96 pixels, 10 classes; its images without classes are left out."""

    name: Literal["stl10"]
    """Chooses this data set."""
    source: Copy
    """ "download", or the path of the archive or of the extracted folder."""


class Cub200(Source):
    """CUB-200-2011: birds, 224 x 224 pixels, 200 classes."""

    name: Literal["cub200"]
    """Chooses this data set."""
    source: Copy
    """ "download", or the path of the archive or of the extracted folder."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Imagenet(Source):
    """ImageNet (ILSVRC 2012): 224 x 224 pixels, 1000 classes. Its licence asks users to get their own copy."""

    name: Literal["imagenet"]
    """Chooses this data set."""
    source: Copy
    """The path of a folder with train/<class>/ and val/<class>/."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Own(Parquet):
    """A data set of the user's own."""

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=64)]
    """The name of the data set's folder in data/, and of its recipes in data/recipes.yaml."""
    source: Text
    """ "folder:<path>" names a folder with a folder per class, which lie below train/ and test/ (or val/) if the images
    are split already. "parquet:<path>" names a folder with train*.parquet and test*.parquet (or validation*).
    """
    image_size: Annotated[int, Field(ge=8, le=1024)]
    """Height and width of the images that the networks see, in pixels."""
    augmentation: Literal["pad_crop", "resize_crop", "random_resized_crop"] | None = None
    """How training images are cropped (see `kdcore.data.sources.own`); if absent, pad_crop up to 64 pixels, else
    resize_crop.
    """
    flip: bool = True
    """Whether training images are mirrored at random."""
    stem: Stem | None = None
    """The first layer of the networks; if absent, small up to 64 pixels, else large."""
    test_share: Fraction | None = None
    """The share of each class that is kept for the test, if the images are not split already."""
    scale_16bit: Annotated[int | list[int] | Literal["largest"] | None, BeforeValidator(_white)] = None
    """Which value of 16-bit greys becomes white: a number, or the largest value of the training images; or which become
    black and white: two numbers; if absent, 0 and 65535.
    """
    background: Annotated[list[int] | Literal["white", "black"] | None, BeforeValidator(_colour)] = None
    """The colour that lies under transparent images; if absent, transparency is dropped."""

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, values: Any) -> Any:
        source = values.get("source") if isinstance(values, dict) else None
        if isinstance(source, str) and (
            not source.startswith((IMAGE_FOLDER, PARQUET)) or source in (IMAGE_FOLDER, PARQUET)
        ):
            raise ValueError(
                f"{shown(values.get('name'))} is none of {', '.join(KNOWN)}; a data set of your own needs "
                f"source {IMAGE_FOLDER}<path> or {PARQUET}<path>, not {shown(source)}"
            )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Own":
        for key in ("image_column", "label_column"):
            if getattr(self, key) is not None and self.source.startswith(IMAGE_FOLDER):
                raise ValueError(f"{key} is for source {PARQUET}<path>; folders of images have no columns")
        for key in ("scale_16bit", "background"):
            if getattr(self, key) is not None and self.augmentation == "random_resized_crop":
                raise ValueError(
                    f"{key} is for images that are decoded once, not for augmentation random_resized_crop; set "
                    "augmentation: resize_crop, or convert the images"
                )
        return self


KNOWN = {
    "cifar100": Cifar100,
    "cub200": Cub200,
    "digits": Digits,
    "imagenet": Imagenet,
    "stl10": Stl10,
    "tiny_imagenet": TinyImagenet,
}
OWN = "own"
_COPY = "download, or the path of the archive or of the folder extracted from it"
SOURCES = {
    "cifar100": f"{_COPY}, or of a folder of parquet files",
    "cub200": _COPY,
    "digits": "embedded",
    "imagenet": "the path of a folder with train/<class>/ and val/<class>/",
    "stl10": _COPY,
    "tiny_imagenet": _COPY,
    OWN: f"{IMAGE_FOLDER}<path> or {PARQUET}<path>",
}
"""Name of a data set -> what `data.source` may be, for messages."""


def module(name: str) -> str:
    """Return the name of the module in kdcore.data.sources that fetches a data set."""
    return name if name in KNOWN else OWN


def images_per_class(section: dict[str, Any]) -> int | None:
    """Return how many training images every class of a data set has, where its section tells; else None."""
    whole = {"cifar100": 500, "stl10": 500, "tiny_imagenet": None if section.get("subset") else 500}
    return section.get("train_per_class") or whole.get(section["name"])


def path(source: str) -> Path | None:
    """Return the path that a source names on this machine; None if it names none."""
    if source in ("embedded", "download"):
        return None
    return expanded(source.removeprefix(IMAGE_FOLDER).removeprefix(PARQUET))


def located(source: str) -> str:
    """Return a source with the path where its files are on this machine: ~ written out, and, in an experiment's
    temporary folder, in the workspace that it came from.
    """
    there = path(source)
    if there is None:
        return source
    prefix = next((kind for kind in (IMAGE_FOLDER, PARQUET) if source.startswith(kind)), "")
    return f"{prefix}{workspace.find(there)}"


def check_there(section: dict[str, Any], where: str, key: str = "data.source") -> None:
    """Refuse a source whose path does not exist on this machine.

    Args:
        section: section `data` of params.yaml.
        where: the file or the options that hold the section, for messages.
        key: of the source in it.

    Raises:
        UserError: names the path and what is allowed.
    """
    there = path(section["source"])
    if there is not None and not os.path.exists(workspace.find(there)):  # Path.exists() raises errors for long names
        hint = " (no user of this machine has that name)" if str(there).startswith("~") else ""
        allowed = SOURCES[module(section["name"])]
        raise UserError(f"{where}: {key}: there is no {named(str(there))}{hint}. Allowed: {allowed}")


def _tag(section: Any) -> str:
    name = section.get("name") if isinstance(section, dict) else getattr(section, "name", None)
    return module(str(name))


Data = Annotated[
    Annotated[Cifar100, Tag("cifar100")]
    | Annotated[Cub200, Tag("cub200")]
    | Annotated[Digits, Tag("digits")]
    | Annotated[Imagenet, Tag("imagenet")]
    | Annotated[Stl10, Tag("stl10")]
    | Annotated[TinyImagenet, Tag("tiny_imagenet")]
    | Annotated[Own, Tag(OWN)],
    Discriminator(_tag),
]
