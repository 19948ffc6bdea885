"""What a data set is in memory: images and their classes, and how networks see them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Split:
    """Images, small enough together to stay in memory, and their classes."""

    images: np.ndarray
    """(N, P, P, 3) uint8."""
    labels: np.ndarray
    """(N,) int64."""


@dataclass(frozen=True)
class Encoded:
    """Images that are decoded whenever they are seen, and their classes."""

    table: pa.Table
    """Column `label`, int64; and `path`, of files below `root`, or `image`, the files' bytes."""
    root: Path | None = None
    file: Path | None = None
    """Where the table is memory-mapped from."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self.table["label"].to_numpy().copy()

    @classmethod
    def open(cls, file: Path, root: Path | None) -> "Encoded":
        """The split whose table a file holds."""
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all(), root, file)

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes that decode get the file's name, not its content."""
        return (Encoded.open, (self.file, self.root)) if self.file else (Encoded, (self.table, self.root))


@dataclass(frozen=True)
class Dataset:
    """What training and evaluation need to know of a data set."""

    name: str
    classes: list[str]
    train: Split | Encoded
    """Encoded images are seen as random resized crops (see `kdcore.data.stream`)."""
    test: Split | Encoded
    mean: tuple[float, float, float]
    """Per channel, of images in [0, 1]."""
    std: tuple[float, float, float]
    image_size: int
    """Side of what networks see, in pixels; of larger stored test images the middle."""
    flip: bool
    """Whether training images are mirrored at random."""
    padding: int = 0
    """Pixels of black border around stored training images, from which crops are taken."""
    rotation: float = 0.0
    """Largest angle, in degrees, by which stored training images are turned."""
    stem: str = "small"
    """Of the networks made for 32 x 32 images (see `kdcore.networks.create`)."""


def first_of_each_class(split: Split, count: int) -> Split:
    """The first `count` images of every class, in the order of the split."""
    rank = np.zeros(len(split.labels), dtype=np.int64)
    for label in np.unique(split.labels):
        members = split.labels == label
        rank[members] = np.arange(members.sum())
    return Split(split.images[rank < count], split.labels[rank < count])
