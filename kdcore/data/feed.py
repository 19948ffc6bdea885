"""What training and evaluation see of a data set: batches of normalised images on a device."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from kdcore.data.augment import Normalize, Views, apply_views, epoch_order, epoch_views, middle
from kdcore.data.store import Dataset, Encoded, Split
from kdcore.data.stream import StreamedViews, stream_unaugmented
from kdcore.data.strong import apply_strong_views, epoch_strong_views

LARGEST_BATCH = 500
BATCH_PIXELS = 1 << 22
"""Of an evaluation's batch."""


class WeakViews(Protocol):
    """Random views of training images: crops, mirrorings and turns."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """Per batch (B,) of positions, on the CPU, `count` independent views (B, 3, S, S) uint8 on the device."""


class Feed:
    """The training images of a data set, epoch after epoch.

    Args:
        dataset: whose training images are seen.
        device: where they are needed.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.device = device
        self.labels = torch.from_numpy(dataset.train.labels).to(device)
        self.normalize = Normalize(dataset.mean, dataset.std, device)
        self.weak: WeakViews
        if isinstance(dataset.train, Split):
            self.weak = ResidentViews(dataset.train, dataset, device)
        else:
            self.weak = StreamedViews(dataset.train, size=dataset.image_size, flip=dataset.flip, device=device)

    def batches(self, size: int, *, views: int, seed: int, epoch: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """One epoch in random order.

        The last batch may be smaller, but a lone image joins the batch before it: batch norm needs more than one.

        Args:
            size: B, images per batch.
            views: 1, or 2 for a strong view (see `kdcore.data.strong`) beside the weak one.
            seed: of the run.
            epoch: counted from 1.

        Yields:
            The views, each (B, 3, S, S), and the positions (B,) of the images in the training set.
        """
        count = len(self.labels)
        order = epoch_order(seed, epoch, count)
        sizes = [len(batch) for batch in order.split(size)]
        if len(sizes) > 1 and sizes[-1] == 1:
            sizes[-2:] = [size + 1]
        drawn = list(order.split(sizes))
        strong = epoch_strong_views(seed, epoch, count) if views > 1 else None
        weak = self.weak.batches(drawn, count=views, seed=seed, epoch=epoch)
        for batch, index, seen in zip(drawn, order.to(self.device).split(sizes), weak, strict=True):
            if strong is not None:
                seen[1] = apply_strong_views(seen[1], strong.of(batch))
            yield tuple(self.normalize(view) for view in seen), index


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

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """See `WeakViews`."""
        images, dataset, padding, size = self.images, self.dataset, self.dataset.padding, self.dataset.image_size
        views = [
            epoch_views(
                seed,
                epoch,
                len(images),
                offsets=images.shape[1] + 2 * padding - size + 1,
                flip=dataset.flip,
                rotation=dataset.rotation,
                strong=strong,
            ).to(images.device)
            for strong in (False, True)[:count]
        ]
        order = torch.cat(batches).to(images.device)
        for index in order.split([len(batch) for batch in batches]):
            yield [self._see(index, view) for view in views]

    def _see(self, index: Tensor, views: Views) -> Tensor:
        padding, size = self.dataset.padding, self.dataset.image_size
        return apply_views(self.images[index], views.of(index), size=size, padding=padding)


def unaugmented(split: Split | Encoded, dataset: Dataset, device: torch.device) -> Iterator[Tensor]:
    """All images of a split in their order, in batches (B, 3, S, S), as a trained network sees them.

    Args:
        split: the images.
        dataset: whose size, mean and deviation networks were trained with.
        device: where they are needed.
    """
    normalize = Normalize(dataset.mean, dataset.std, device)
    size = min(LARGEST_BATCH, max(1, BATCH_PIXELS // dataset.image_size**2))
    if isinstance(split, Encoded):
        for batch in stream_unaugmented(split, size=dataset.image_size, batch_size=size, device=device):
            yield normalize(batch)
    else:
        for batch in torch.from_numpy(split.images).split(size):
            yield normalize(middle(batch.to(device), dataset.image_size))
