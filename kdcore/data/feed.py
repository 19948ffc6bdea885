"""Feed training and evaluation with batches of normalised images on a device."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdcore.data.augment import Normalize, Views, apply_views, epoch_order, epoch_views, middle
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.randaugment import apply_strong_views, epoch_strong_views
from kdcore.data.stream import StreamedViews, stream_unaugmented
from kdcore.system.errors import UserError

MIRRORINGS = 2
LARGEST_BATCH = 250
BATCH_PIXELS = 1 << 22
"""Most images, and most pixels, of a batch in evaluation."""


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several processes sees."""

    rank: int = 0
    """Which of the processes it is, counted from 0."""
    size: int = 1
    """How many processes there are."""

    def share(self, values: Tensor) -> Tensor:
        """Select this process's part along the first axis of (N, ...); the sizes of parts differ by one at most."""
        return values[self.rank :: self.size]


WHOLE = Shard()
"""The shard of a process that works alone."""


@dataclass(frozen=True)
class Batch:
    """A batch of B training images, as networks see them in one step."""

    views: tuple[Tensor, ...]
    """(B, 3, S, S) each, normalised: the weak view, and the strong one where a method needs it."""
    target: Tensor
    """(B,) int64, class indices."""
    index: Tensor
    """(B,) int64, positions of the images in the training split."""
    view_names: np.ndarray | None
    """(B,) int64, one number for each pair of image and weak view, from 0 to `Feed.view_count` times the number of
    images; None if the possible views cannot be counted."""
    whole: int
    """How many images all processes together see in this step: B if there is one process."""
    position: tuple[int, int]
    """The epoch, counted from 1, and the number of the batch in it, from 0."""


class WeakViews(Protocol):
    """Random views of training images: crops, mirrorings and turns."""

    @property
    def view_count(self) -> int | None:
        """How many different views an image can have; None if they cannot be counted."""

    def names(self, seed: int, epoch: int) -> np.ndarray | None:
        """Return the number (N,) of each image's weak view in an epoch, below `view_count`."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """Yield `count` independent views of each batch, as (B, 3, S, S) uint8 on the device.

        Args:
            batches: positions (B,) of images, on the CPU.
            count: 1 for the weak view, 2 for the crop of the strong view too.
            seed: seed of the run.
            epoch: counted from 1.
        """


class Feed:
    """Yields the training images of a data set, epoch after epoch.

    Args:
        dataset: holds the training images.
        device: takes the batches.
        shard: the part of every batch that this process sees.
    """

    def __init__(self, dataset: Dataset, device: torch.device, shard: Shard = WHOLE) -> None:
        self.dataset, self.device, self.shard = dataset, device, shard
        self.labels = torch.from_numpy(dataset.train.labels).to(device)
        self.normalize = Normalize(dataset.mean, dataset.std, device)
        self.weak: WeakViews
        if isinstance(dataset.train, Split):
            self.weak = ResidentViews(dataset.train, dataset, device)
        else:
            self.weak = StreamedViews(dataset.train, size=dataset.image_size, flip=dataset.flip, device=device)

    @property
    def view_count(self) -> int | None:
        """How many different weak views an image can have; None if they cannot be counted."""
        return self.weak.view_count

    def sizes(self, size: int) -> list[int]:
        """Return the sizes of an epoch's batches, over all processes together.

        The last batch may be smaller, but a lone image joins the batch before it: batch norm needs at least two.
        """
        count = len(self.labels)
        sizes = [min(size, count - start) for start in range(0, count, size)]
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [size + 1]
        return sizes

    def batches(self, size: int, *, views: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch in random order.

        Args:
            size: images per batch, of all processes together (see `sizes`).
            views: 1, or 2 for a strong view (see `kdcore.data.randaugment`) beside the weak one.
            seed: seed of the run.
            epoch: counted from 1.
            skip: number of batches at the start that were seen before; their images are not decoded.

        Raises:
            UserError: a batch holds fewer images than there are processes.
        """
        count, sizes = len(self.labels), self.sizes(size)
        if min(sizes) < self.shard.size:
            raise UserError(
                f"train.batch_size {size}: of {count} images, a batch of {min(sizes)} is left over, fewer than the "
                f"{self.shard.size} processes; take fewer processes or another batch_size"
            )
        if skip == len(sizes):
            return
        order = epoch_order(seed, epoch, count)
        drawn = [self.shard.share(batch) for batch in order.split(sizes)[skip:]]
        indices = torch.cat(drawn).to(self.device).split([len(batch) for batch in drawn])
        strong = epoch_strong_views(seed, epoch, count) if views > 1 else None
        weak = self.weak.batches(drawn, count=views, seed=seed, epoch=epoch)
        names = self.weak.names(seed, epoch)
        numbers = range(skip, len(sizes))
        for number, whole, batch, index, seen in zip(numbers, sizes[skip:], drawn, indices, weak, strict=True):
            if strong is not None:
                seen[1] = apply_strong_views(seen[1], strong.of(batch))
            named = None if names is None else batch.numpy() * self.weak.view_count + names[batch.numpy()]
            views_seen = tuple(self.normalize(view) for view in seen)
            yield Batch(views_seen, self.labels[index], index, named, whole, (epoch, number))


class ResidentViews:
    """Random views of training images that stay decoded on the device (implements `WeakViews`).

    Args:
        split: the images.
        dataset: says how they are seen.
        device: keeps the images.
    """

    def __init__(self, split: Split, dataset: Dataset, device: torch.device) -> None:
        self.images = torch.from_numpy(split.images).to(device)
        self.dataset = dataset

    @property
    def view_count(self) -> int | None:
        """How many different views an image can have; None if they are turned by any angle."""
        return None if self.dataset.rotation else self._offsets**2 * (MIRRORINGS if self.dataset.flip else 1)

    def names(self, seed: int, epoch: int) -> np.ndarray | None:
        """Return the number (N,) of each image's weak view in an epoch, below `view_count`."""
        if self.view_count is None:
            return None
        views = self._views(seed, epoch, strong=False)
        placed = views.top * self._offsets + views.left
        return (placed * MIRRORINGS + views.mirrored if self.dataset.flip else placed).numpy()

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """For each batch (B,) of positions, yield `count` views (B, 3, S, S) uint8 on the device."""
        device = self.images.device
        views = [self._views(seed, epoch, strong=strong).to(device) for strong in (False, True)[:count]]
        order = torch.cat(batches).to(device)
        for index in order.split([len(batch) for batch in batches]):
            yield [self._see(index, view) for view in views]

    @property
    def _offsets(self) -> int:
        return self.images.shape[1] + 2 * self.dataset.padding - self.dataset.image_size + 1

    def _views(self, seed: int, epoch: int, *, strong: bool) -> Views:
        return epoch_views(
            seed,
            epoch,
            len(self.images),
            offsets=self._offsets,
            flip=self.dataset.flip,
            rotation=self.dataset.rotation,
            strong=strong,
        )

    def _see(self, index: Tensor, views: Views) -> Tensor:
        padding, size = self.dataset.padding, self.dataset.image_size
        return apply_views(self.images[index], views.of(index), size=size, padding=padding)


def unaugmented(
    split: Split | Encoded, dataset: Dataset, device: torch.device, shard: Shard = WHOLE
) -> Iterator[Tensor]:
    """Yield all images of a split in their order, normalised and unaugmented, in batches (B, 3, S, S).

    Args:
        split: the images.
        dataset: gives the image size, mean and standard deviation.
        device: takes the batches.
        shard: the part of the images that this process sees.
    """
    normalize = Normalize(dataset.mean, dataset.std, device)
    size = min(LARGEST_BATCH, max(1, BATCH_PIXELS // dataset.image_size**2))
    if isinstance(split, Encoded):
        positions = shard.share(torch.arange(len(split.labels))).split(size)
        for batch in stream_unaugmented(split, positions, size=dataset.image_size, device=device):
            yield normalize(batch)
    else:
        for batch in shard.share(torch.from_numpy(split.images)).split(size):
            yield normalize(middle(batch.to(device), dataset.image_size))
