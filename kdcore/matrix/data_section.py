"""Section `data` of params.yaml: which data set is used, and where it comes from."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from kdcore.matrix.section import Fraction, Section, Text
from kdcore.system import workspace
from kdcore.system.errors import UserError, named, shown

IMAGE_FOLDER, PARQUET = "folder:", "parquet:"
Stem = Literal["small", "large"]
"""The first layer of networks that are made for 32 x 32 images. small is as published; large is a convolution of 7 x 7
pixels with stride 2, for larger images.
"""


class Digits(Section):
    """Scikit-learn's handwritten digits, which need no download."""

    name: Literal["digits"]
    source: Literal["embedded"]
    image_size: Literal[16, 32]
    train_per_class: Annotated[int, Field(ge=1, le=80)]
    """How many training images of each class are used; with few of them, networks differ in accuracy."""


class Cifar100(Section):
    """CIFAR-100: 32 x 32 pixels, 100 classes."""

    name: Literal["cifar100"]
    source: Text
    """ "download", or the path of the archive, of the folder extracted from it, or of a folder of parquet files."""
    train_per_class: Annotated[int, Field(ge=1, le=500)] | None = None
    """How many training images of each class are used; all 500 if absent."""


class TinyImagenet(Section):
    """Tiny-ImageNet: 64 x 64 pixels, 200 classes."""

    name: Literal["tiny_imagenet"]
    source: Text
    """ "download", or the path of the archive or of the extracted folder."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Cub200(Section):
    """CUB-200-2011: birds, 224 x 224 pixels, 200 classes."""

    name: Literal["cub200"]
    source: Text
    """ "download", or the path of the archive or of the extracted folder."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Imagenet(Section):
    """ImageNet (ILSVRC 2012): 224 x 224 pixels, 1000 classes. Its licence asks users to get their own copy."""

    name: Literal["imagenet"]
    source: Text
    """The path of a folder with train/<class>/ and val/<class>/."""
    subset: bool = False
    """Whether to take the classes and images that are there; if not, an incomplete data set is refused."""


class Own(Section):
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


KNOWN = {
    "cifar100": Cifar100,
    "cub200": Cub200,
    "digits": Digits,
    "imagenet": Imagenet,
    "tiny_imagenet": TinyImagenet,
}
OWN = "own"
_COPY = "download, or the path of the archive or of the folder extracted from it"
SOURCES = {
    "cifar100": f"{_COPY}, or of a folder of parquet files",
    "cub200": _COPY,
    "digits": "embedded",
    "imagenet": "the path of a folder with train/<class>/ and val/<class>/",
    "tiny_imagenet": _COPY,
    OWN: f"{IMAGE_FOLDER}<path> or {PARQUET}<path>",
}
"""Name of a data set -> what `data.source` may be, for messages."""


def module(name: str) -> str:
    """Return the name of the module in kdcore.data.sources that fetches a data set."""
    return name if name in KNOWN else OWN


def path(source: str) -> Path | None:
    """Return the path that a source names on this machine; None if it names none."""
    if source in ("embedded", "download"):
        return None
    return Path(source.removeprefix(IMAGE_FOLDER).removeprefix(PARQUET))


def located(source: str) -> str:
    """Return a source with the path where its files are: in an experiment's temporary folder or in its workspace."""
    there = path(source)
    found = None if there is None else workspace.find(there)
    if found == there:
        return source
    prefix = next((kind for kind in (IMAGE_FOLDER, PARQUET) if source.startswith(kind)), "")
    return f"{prefix}{found}"


def check_there(section: dict[str, Any], where: str) -> None:
    """Refuse a source whose path does not exist on this machine.

    Args:
        section: section `data` of params.yaml.
        where: the file or the options that hold the section, for messages.

    Raises:
        UserError: names the path and what is allowed.
    """
    there = path(section["source"])
    if there is not None and not os.path.exists(
        workspace.find(there)
    ):  # Path.exists() raises errors for names that are too long
        hint = " (~ is not expanded)" if str(there).startswith("~") else ""
        allowed = SOURCES[module(section["name"])]
        raise UserError(f"{where}: data.source: there is no {named(str(there))}{hint}. Allowed: {allowed}")


def _tag(section: Any) -> str:
    name = section.get("name") if isinstance(section, dict) else getattr(section, "name", None)
    return module(str(name))


Data = Annotated[
    Annotated[Cifar100, Tag("cifar100")]
    | Annotated[Cub200, Tag("cub200")]
    | Annotated[Digits, Tag("digits")]
    | Annotated[Imagenet, Tag("imagenet")]
    | Annotated[TinyImagenet, Tag("tiny_imagenet")]
    | Annotated[Own, Tag(OWN)],
    Discriminator(_tag),
]
