"""What training and evaluation see of a data set: batches of normalised images on a device."""

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
"""Of an evaluation's batch."""


@dataclass(frozen=True)
class Shard:
    """The part of every batch that one of several processes sees."""

    rank: int = 0
    """Which of the processes it is, counted from 0."""
    size: int = 1
    """How many processes there are."""

    def share(self, values: Tensor) -> Tensor:
        """The part of this process along the first axis of (N, ...); the parts' sizes differ by one at most."""
        return values[self.rank :: self.size]


WHOLE = Shard()
"""The shard of a process that works alone."""


@dataclass(frozen=True)
class Seen:
    """B training images as they are seen once."""

    views: tuple[Tensor, ...]
    """(B, 3, S, S) each, normalised: the weak view, and the strong one where a method needs it."""
    index: Tensor
    """(B,) int64, which of the training images they are."""
    names: np.ndarray | None
    """(B,) int64, a number for image and weak view, below `Feed.view_count` times the images; None where views are
    without number."""
    whole: int
    """How many images all processes together see in this step: B where there is one."""


class WeakViews(Protocol):
    """Random views of training images: crops, mirrorings and turns."""

    @property
    def view_count(self) -> int | None:
        """How many views an image has; None where they are without number."""

    def names(self, seed: int, epoch: int) -> np.ndarray | None:
        """The number (N,) of each image's first view in an epoch, below `view_count`."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """Per batch (B,) of positions, on the CPU, `count` independent views (B, 3, S, S) uint8 on the device."""


class Feed:
    """The training images of a data set, epoch after epoch.

    Args:
        dataset: whose training images are seen.
        device: where they are needed.
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
        """How many weak views an image has; None where they are without number."""
        return self.weak.view_count

    def sizes(self, size: int) -> list[int]:
        """Of an epoch's batches, of all processes together.

        The last one may be smaller, but a lone image joins the batch before it: batch norm needs more than one.
        """
        count = len(self.labels)
        sizes = [min(size, count - start) for start in range(0, count, size)]
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [size + 1]
        return sizes

    def batches(self, size: int, *, views: int, seed: int, epoch: int, skip: int = 0) -> Iterator[Seen]:
        """One epoch in random order.

        Args:
            size: images per batch, of all processes together (see `sizes`).
            views: 1, or 2 for a strong view (see `kdcore.data.randaugment`) beside the weak one.
            seed: of the run.
            epoch: counted from 1.
            skip: so many batches that were seen before; their images are not decoded.

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
        for whole, batch, index, seen in zip(sizes[skip:], drawn, indices, weak, strict=True):
            if strong is not None:
                seen[1] = apply_strong_views(seen[1], strong.of(batch))
            named = None if names is None else batch.numpy() * self.weak.view_count + names[batch.numpy()]
            yield Seen(tuple(self.normalize(view) for view in seen), index, named, whole)


class ResidentViews:
    """Views of images that stay on the device.

    Args:
        split: the images.
        dataset: how they are seen.
        device: where they stay.
    """

    def __init__(self, split: Split, dataset: Dataset, device: torch.device) -> None:
        self.images = torch.from_numpy(split.images).to(device)
        self.dataset = dataset

    @property
    def view_count(self) -> int | None:
        """See `WeakViews`."""
        return None if self.dataset.rotation else self._offsets**2 * (MIRRORINGS if self.dataset.flip else 1)

    def names(self, seed: int, epoch: int) -> np.ndarray | None:
        """See `WeakViews`."""
        if self.view_count is None:
            return None
        views = self._views(seed, epoch, strong=False)
        placed = views.top * self._offsets + views.left
        return (placed * MIRRORINGS + views.mirrored if self.dataset.flip else placed).numpy()

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """See `WeakViews`."""
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
    """All images of a split in their order, in batches (B, 3, S, S), as a trained network sees them.

    Args:
        split: the images.
        dataset: whose size, mean and deviation networks were trained with.
        device: where they are needed.
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
