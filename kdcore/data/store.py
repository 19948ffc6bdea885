"""A data set on disk: plain arrays, memory-mapped, with a manifest that says what they are."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcore import jsonfile
from kdcore.errors import UserError

SPLITS = ("train", "test")
FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Split:
    """Images and their classes."""

    images: np.ndarray
    """(N, H, W, 3) uint8."""
    labels: np.ndarray
    """(N,) int64."""


@dataclass(frozen=True)
class Dataset:
    """What training and evaluation need to know of a data set."""

    name: str
    classes: list[str]
    train: Split
    test: Split
    mean: tuple[float, float, float]
    """Per channel, of images in [0, 1]."""
    std: tuple[float, float, float]
    padding: int
    """Pixels of black border from which training crops are taken."""
    flip: bool
    """Whether training images are mirrored at random."""


def save(dataset: Dataset, folder: Path) -> None:
    """Write arrays and manifest into an existing folder.

    Raises:
        UserError: images or labels are not what their fields say, or a split is empty.
    """
    files = {}
    for name in SPLITS:
        split: Split = getattr(dataset, name)
        _check(dataset, name, split)
        for part in ("images", "labels"):
            path = folder / f"{name}_{part}.npy"
            np.save(path, getattr(split, part))
            files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "image_size": dataset.train.images.shape[1],
        "counts": {name: len(getattr(dataset, name).labels) for name in SPLITS},
        "mean": dataset.mean,
        "std": dataset.std,
        "augmentation": {"padding": dataset.padding, "flip": dataset.flip},
        "classes": dataset.classes,
        "sha256": files,
    }
    jsonfile.write(folder / MANIFEST, manifest)


def load(folder: Path) -> Dataset:
    """The data set of a folder, its arrays memory-mapped (copy on write: the files never change).

    Raises:
        UserError: the folder holds no data set of this format, or a damaged one.
    """
    manifest = jsonfile.read(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise UserError(f"{folder / MANIFEST}: is not of format {FORMAT}; run 'dvc repro --force data'")
    try:
        train, test = (
            Split(*(np.load(folder / f"{name}_{part}.npy", mmap_mode="c") for part in ("images", "labels")))
            for name in SPLITS
        )
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{folder}: is damaged ({error}); run 'dvc checkout' or 'dvc repro --force data'") from error
    dataset = Dataset(
        name=manifest["name"],
        classes=manifest["classes"],
        train=train,
        test=test,
        mean=tuple(manifest["mean"]),
        std=tuple(manifest["std"]),
        **manifest["augmentation"],
    )
    for name, split in zip(SPLITS, (train, test), strict=True):
        _check(dataset, name, split)
    return dataset


def first_of_each_class(split: Split, count: int) -> Split:
    """The first `count` images of every class, in the order of the split."""
    rank = np.zeros(len(split.labels), dtype=np.int64)
    for label in np.unique(split.labels):
        members = split.labels == label
        rank[members] = np.arange(members.sum())
    return Split(split.images[rank < count], split.labels[rank < count])


def _check(dataset: Dataset, name: str, split: Split) -> None:
    images, labels = split.images, split.labels
    where = f"{dataset.name}, {name} split"
    if len(labels) == 0:
        raise UserError(f"{where}: holds no images")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise UserError(f"{where}: images are {images.dtype} {images.shape}, not square uint8 RGB (N, H, H, 3)")
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise UserError(f"{where}: labels are {labels.dtype} {labels.shape}, not int64 {images.shape[:1]}")
    if labels.min() < 0 or labels.max() >= len(dataset.classes):
        raise UserError(
            f"{where}: labels from {labels.min()} to {labels.max()}, but there are {len(dataset.classes)} classes"
        )
