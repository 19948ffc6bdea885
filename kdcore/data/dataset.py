"""What a data set is in memory: images and their classes, and how networks see them."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
from typing_extensions import Self

if TYPE_CHECKING:
    from kdcore.matrix.train_recipe import Augmentation


@dataclass(frozen=True)
class Split:
    """Images that are kept decoded in memory, and their classes."""

    images: np.ndarray
    """(N, P, P, 3) uint8."""
    labels: np.ndarray
    """(N,) int64."""

    def take(self, positions: np.ndarray) -> Self:
        """Select some of the images by their positions."""
        return replace(self, images=self.images[positions], labels=self.labels[positions])


@dataclass(frozen=True)
class Encoded:
    """Images that are kept encoded and decoded whenever they are seen, and their classes."""

    table: pa.Table
    """A column `label` (int64), and either `path` (files below `root`) or `image` (the files' bytes)."""
    root: Path | None = None
    file: Path | None = None
    """The file from which the table is memory-mapped, if any."""
    rows: np.ndarray | None = None
    """(N,), the rows of the table that are its images; None if all are. The table itself is never copied."""

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        labels = self.table["label"].to_numpy()
        return labels.copy() if self.rows is None else labels[self.rows]

    def take(self, positions: np.ndarray) -> Self:
        """Select some of the images by their positions."""
        return replace(self, rows=positions if self.rows is None else self.rows[positions])

    def row(self, position: int) -> int:
        """Return the row of the table that holds an image."""
        return position if self.rows is None else int(self.rows[position])

    @classmethod
    def open(cls, file: Path, root: Path | None, rows: np.ndarray | None = None) -> "Encoded":
        """Memory-map the table of a split."""
        return cls(pa.ipc.open_file(pa.memory_map(str(file))).read_all(), root, file, rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send decoding processes the file's name instead of its content."""
        if self.file:
            return Encoded.open, (self.file, self.root, self.rows)
        return Encoded, (self.table, self.root, None, self.rows)


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
    validation: Split | Encoded | None = None
    """Images that were training images and are kept for validation (see `kdcore.data.subsets`)."""
    augmented: bool = True
    """Whether training images are seen augmented; if not, as in evaluation."""
    recipe: "Augmentation | None" = None
    """How they are distorted beside that, or cropped instead."""


AnySplit = TypeVar("AnySplit", bound=Split | Encoded)


def first_of_each_class(split: AnySplit, count: int) -> AnySplit:
    """Keep the first `count` images of every class, in the order of the split."""
    rank = np.zeros(len(split.labels), dtype=np.int64)
    for label in np.unique(split.labels):
        members = split.labels == label
        rank[members] = np.arange(members.sum())
    return cast(AnySplit, split.take(np.flatnonzero(rank < count)))
