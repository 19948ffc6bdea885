"""What a data set is in memory: images and their classes, and how networks see them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Split:
    """Images that are kept decoded in memory, and their classes."""

    images: np.ndarray
    """(N, P, P, 3) uint8."""
    labels: np.ndarray
    """(N,) int64."""


@dataclass(frozen=True)
class Encoded:
    """Images that are kept encoded and decoded whenever they are seen, and their classes."""

    table: pa.Table
    """A column `label` (int64), and either `path` (files below `root`) or `image` (the files' bytes)."""
    root: Path | None = None
    file: Path | None = None
    """The file from which the table is memory-mapped, if any."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return self.table["label"].to_numpy().copy()

    @classmethod
    def open(cls, file: Path, root: Path | None) -> "Encoded":
        """Memory-map the table of a split."""
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all(), root, file)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send decoding processes the file's name instead of its content."""
        return (Encoded.open, (self.file, self.root)) if self.file else (Encoded, (self.table, self.root))


@dataclass(frozen=True)
class Dataset:
    """What training and evaluation need to know of a data set."""

    name: str
    classes: list[str]
    train: Split | Encoded
    """Training images. Encoded ones are seen as random resized crops (`kdcore.data.stream`)."""
    test: Split | Encoded
    mean: tuple[float, float, float]
    """Mean of each channel over the training images, in [0, 1]."""
    std: tuple[float, float, float]
    image_size: int
    """Side of the square that networks see, in pixels; they see the middle of larger test images."""
    flip: bool
    """Whether training images are mirrored at random."""
    padding: int = 0
    """Pixels of black border around stored training images, from which crops are taken."""
    rotation: float = 0.0
    """Largest angle, in degrees, by which stored training images are turned."""
    stem: str = "small"
    """Stem of networks that were designed for 32 x 32 images: "small" or "large" (`kdcore.networks.create`)."""


def first_of_each_class(split: Split, count: int) -> Split:
    """Keep the first `count` images of every class, in the order of the split."""
    rank = np.zeros(len(split.labels), dtype=np.int64)
    for label in np.unique(split.labels):
        members = split.labels == label
        rank[members] = np.arange(members.sum())
    return Split(split.images[rank < count], split.labels[rank < count])
