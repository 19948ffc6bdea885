"""Save and load data sets: memory-mapped arrays, or an index of encoded images, beside a manifest."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.system import validated, workspace
from kdcore.system.errors import UserError
from kdcore.system.files import file_sha256, read_json, write_json

SPLITS = ("train", "test")
FORMAT = 2
REMEDY = "run 'dvc checkout' or 'dvc repro --force data'"
Rgb = Field(min_length=3, max_length=3)


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Counts(_Section):
    train: int
    test: int


class _Augmentation(_Section):
    padding: Annotated[int, Field(ge=0)]
    rotation: Annotated[float, Field(ge=0)]
    flip: bool


class Manifest(_Section):
    """The manifest that `save` writes beside the arrays; `kdcore.data.dataset.Dataset` explains the fields."""

    format: int
    name: str
    image_size: Annotated[int, Field(ge=1)]
    counts: _Counts
    """Number of images in each split."""
    mean: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Rgb]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Rgb]
    stem: Literal["small", "large"]
    augmentation: _Augmentation
    encoded: dict[str, str | None]
    """Split -> folder of its images, for splits that are an index; None if the index itself holds the images."""
    classes: Annotated[list[str], Field(min_length=1)]
    sha256: dict[str, str]
    """File -> its checksum."""


def save(dataset: Dataset, folder: Path) -> None:
    """Write a data set into an existing folder.

    Raises:
        UserError: images or labels are not what their fields say, or a split is empty.
    """
    files: dict[str, str] = {}
    roots = {}
    for name in SPLITS:
        split: Split | Encoded = getattr(dataset, name)
        _check(dataset, name, split)
        for path in _write(split, folder, name):
            files[path.name] = file_sha256(path)
        if isinstance(split, Encoded):
            roots[name] = str(split.root) if split.root else None
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "image_size": dataset.image_size,
        "counts": {name: len(getattr(dataset, name).labels) for name in SPLITS},
        "mean": dataset.mean,
        "std": dataset.std,
        "stem": dataset.stem,
        "augmentation": {"padding": dataset.padding, "rotation": dataset.rotation, "flip": dataset.flip},
        "encoded": roots,
        "classes": dataset.classes,
        "sha256": files,
    }
    write_json(folder / workspace.MANIFEST, manifest)


def load(folder: Path) -> Dataset:
    """Load the data set of a folder, its arrays memory-mapped (copy on write: the files never change).

    Raises:
        UserError: the folder holds no data set of this format, or a damaged one.
    """
    manifest = read_manifest(folder)
    try:
        train, test = (_open(folder, name, manifest.encoded) for name in SPLITS)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise validated.damaged(folder, repr(error), REMEDY) from error
    (a, b, c), (d, e, f) = manifest.mean, manifest.std
    dataset = Dataset(
        name=manifest.name,
        classes=manifest.classes,
        train=train,
        test=test,
        mean=(a, b, c),
        std=(d, e, f),
        image_size=manifest.image_size,
        stem=manifest.stem,
        **manifest.augmentation.model_dump(),
    )
    for name, split in zip(SPLITS, (train, test), strict=True):
        try:
            _check(dataset, name, split)
        except UserError as error:
            raise UserError(f"{folder}: {error}; {REMEDY}") from error
    return dataset


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data set.

    Raises:
        UserError: the folder holds no manifest of this format, or a damaged one.
    """
    content = read_json(folder / workspace.MANIFEST)
    if content.get("format") != FORMAT:
        raise UserError(f"{folder / workspace.MANIFEST}: is not of format {FORMAT}; run 'dvc repro --force data'")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise validated.damaged(folder / workspace.MANIFEST, validated.problem(error), REMEDY) from error


def _write(split: Split | Encoded, folder: Path, name: str) -> list[Path]:
    if isinstance(split, Encoded):
        path = folder / f"{name}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, split.table.schema) as writer:
            writer.write_table(split.table)
        return [path]
    paths = [folder / f"{name}_{part}.npy" for part in ("images", "labels")]
    for path, array in zip(paths, (split.images, split.labels), strict=True):
        np.save(path, array)
    return paths


def _open(folder: Path, name: str, encoded: dict[str, str | None]) -> Split | Encoded:
    if name in encoded:
        root = encoded[name]
        return Encoded.open(folder / f"{name}.arrow", workspace.find(Path(root)) if root else None)
    return Split(*(np.load(folder / f"{name}_{part}.npy", mmap_mode="c") for part in ("images", "labels")))


def _check(dataset: Dataset, name: str, split: Split | Encoded) -> None:
    labels = split.labels
    where = f"{dataset.name}, {name} split"
    if len(labels) == 0:
        raise UserError(f"{where}: holds no images")
    if isinstance(split, Split):
        _check_images(dataset, where, split)
    elif ("path" in split.table.column_names) == ("image" in split.table.column_names):
        raise UserError(f"{where}: an index needs either paths or images, not {split.table.column_names}")
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise UserError(f"{where}: labels are {labels.dtype} {labels.shape}, not int64 (N,)")
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise UserError(
            f"{where}: labels from {labels.min()} to {labels.max()}, but there are {len(dataset.classes)} classes"
        )


def _check_images(dataset: Dataset, where: str, split: Split) -> None:
    images = split.images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise UserError(f"{where}: images are {images.dtype} {images.shape}, not square uint8 RGB (N, P, P, 3)")
    if split.labels.shape != images.shape[:1]:
        raise UserError(f"{where}: labels are of shape {split.labels.shape}, not {images.shape[:1]}")
    if images.shape[1] < dataset.image_size:
        raise UserError(f"{where}: images of {images.shape[1]} pixels are smaller than image_size {dataset.image_size}")
