"""Random and plain views of training images: crops, mirrorings and turns."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdcore.data.augment import Views, apply_views, epoch_views, middle
from kdcore.data.dataset import Dataset, Split
from kdcore.data.distort import boxes
from kdcore.data.interpolate import resized_crop

MIRRORINGS = 2


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


class ResizedViews:
    """Parts of training images, of any size, that are resized to the whole (implements `WeakViews`).

    Args:
        split: the images, which stay decoded on the device.
        dataset: says how large they are seen, and whether mirrored.
        device: keeps the images.
        interpolation: see `kdcore.data.interpolate.resized_crop`.
    """

    view_count: int | None = None

    def __init__(self, split: Split, dataset: Dataset, device: torch.device, interpolation: str) -> None:
        self.images = torch.from_numpy(split.images).to(device)
        self.dataset, self.interpolation = dataset, interpolation

    def names(self, seed: int, epoch: int) -> None:
        """Return None: the views cannot be counted."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """For each batch (B,) of positions, yield `count` views (B, 3, S, S) uint8 on the device."""
        device, size = self.images.device, self.images.shape[1]
        drawn = []
        for strong in (False, True)[:count]:
            box = boxes(seed, epoch, len(self.images), size=size, strong=strong).to(device)
            flip = self.dataset.flip
            views = epoch_views(seed, epoch, len(self.images), offsets=1, flip=flip, strong=strong)
            drawn.append((box, views.mirrored.to(device)))
        order = torch.cat(batches).to(device)
        for index in order.split([len(batch) for batch in batches]):
            yield [self._see(index, box[index], mirrored[index]) for box, mirrored in drawn]

    def _see(self, index: Tensor, box: Tensor, mirrored: Tensor) -> Tensor:
        images = self.images[index].permute(0, 3, 1, 2)
        cropped = resized_crop(images, box, self.dataset.image_size, self.interpolation)
        return torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped)


class JoinedViews:
    """Every training image twice: at its position as `plain` sees it, and N positions later as `augmented` does
    (implements `WeakViews`).

    Args:
        augmented: random views.
        plain: views that are not.
        dataset: has the N training images.
    """

    view_count: int | None = None

    def __init__(self, augmented: WeakViews, plain: WeakViews, dataset: Dataset) -> None:
        self.parts, self.images = (plain, augmented), len(dataset.train.labels)

    def names(self, seed: int, epoch: int) -> None:
        """Return None: the views are not counted."""

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """For each batch (B,) of positions, yield its view (B, 3, S, S) uint8 on the device; `count` is 1."""
        is_augmented = [batch >= self.images for batch in batches]
        seen = []
        for number, part in enumerate(self.parts):
            own = [batch[of == bool(number)] % self.images for batch, of in zip(batches, is_augmented, strict=True)]
            seen.append(part.batches([batch for batch in own if len(batch)], count=count, seed=seed, epoch=epoch))
        for of in is_augmented:
            there = [next(views)[0] for views, some in zip(seen, (~of, of), strict=True) if some.any()]
            back = of.long().argsort(stable=True).argsort().to(there[0].device, non_blocking=True)
            yield [torch.cat(there)[back]]


class PlainViews:
    """The single view of each training image that is seen without augmentation: its middle (implements `WeakViews`).

    Args:
        split: the images, which stay decoded on the device.
        size: S, side of the views.
        device: keeps the images.
    """

    view_count: int | None = 1

    def __init__(self, split: Split, *, size: int, device: torch.device) -> None:
        self.images, self.size = torch.from_numpy(split.images).to(device), size

    def names(self, seed: int, epoch: int) -> np.ndarray:
        """Return a zero (N,) for each image: the number of its only view."""
        return np.zeros(len(self.images), dtype=np.int64)

    def batches(self, batches: list[Tensor], *, count: int, seed: int, epoch: int) -> Iterator[list[Tensor]]:
        """For each batch (B,) of positions, yield its view (B, 3, S, S) uint8 on the device."""
        order = torch.cat(batches).to(self.images.device)
        for index in order.split([len(batch) for batch in batches]):
            yield [middle(self.images[index], self.size)]
