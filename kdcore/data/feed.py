"""Feed training and evaluation with batches of normalised images on a device."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.data import mixing
from kdcore.data.augment import Normalize, epoch_order, middle
from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.distort import Distortions, distort, draw, erase
from kdcore.data.randaugment import StrongViews, apply_strong_views, epoch_strong_views
from kdcore.data.stream import StreamedViews, stream_unaugmented
from kdcore.data.views import JoinedViews, PlainViews, ResidentViews, ResizedViews, WeakViews
from kdcore.system.errors import UserError

LARGEST_BATCH = 250
BATCH_PIXELS = 1 << 22
"""Most images, and most pixels, of a batch in evaluation."""
TOGETHER, TOGETHER_PIXELS = 1024, 1 << 20
"""Most images, and most pixels of an image's plane, whose strong views are distorted at once, beside a single batch."""


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
    """(B,) int64, class indices; of mixed images, that of the one with the larger share."""
    index: Tensor
    """(B,) int64, positions of the images in the training split; of mixed images, that of the same one."""
    view_names: np.ndarray | None
    """(B,) int64, one number for each pair of image and weak view, from 0 to `Feed.view_count` times the number of
    images; None if the possible views cannot be counted."""
    whole: int
    """How many images all processes together see in this step: B if there is one process."""
    position: tuple[int, int]
    """The epoch, counted from 1, and the number of the batch in it, from 0."""
    soft: Tensor | None = None
    """(B, C) float32, the shares of the classes in mixed images; None if they are not mixed."""


class Feed:
    """Yields the training images of a data set, epoch after epoch.

    Args:
        dataset: holds the training images.
        device: takes the batches.
        shard: the part of every batch that this process sees.
        mixup: see `kdcore.data.mixing.draw`; with neither, images are not mixed.
        cutmix: the same.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        shard: Shard = WHOLE,
        *,
        mixup: float | None = None,
        cutmix: float | None = None,
    ) -> None:
        self.mixup, self.cutmix = mixup or 0.0, cutmix or 0.0
        self.dataset, self.device, self.shard = dataset, device, shard
        self.labels = torch.from_numpy(dataset.train.labels).to(device)
        self.normalize = Normalize(dataset.mean, dataset.std, device)
        self.weak: WeakViews
        size, flip, augmented = dataset.image_size, dataset.flip, dataset.augmented
        self.recipe = dataset.recipe
        crop, interpolation = None, "bilinear"
        if self.recipe is not None:
            crop, interpolation = self.recipe.crop, self.recipe.interpolation or "bicubic"
            colour = torch.tensor(dataset.mean).mul(255).round().clamp(max=255)
            self.fill = colour.to(torch.uint8).to(device)
        if isinstance(dataset.train, Encoded):
            if crop == "padded":
                raise UserError(
                    "train.augmentation.crop: padded: these images are decoded as they are needed, at any size; remove "
                    "it, or store them decoded (data.augmentation: resize_crop)"
                )
            options: dict[str, Any] = {"interpolation": interpolation} if crop == "resized" else {}
            self.weak = StreamedViews(
                dataset.train, size=size, flip=flip, device=device, augmented=augmented, **options
            )
        elif not augmented:
            self.weak = PlainViews(dataset.train, size=size, device=device)
        elif crop == "resized":
            self.weak = ResizedViews(dataset.train, dataset, device, interpolation)
        else:
            self.weak = ResidentViews(dataset.train, dataset, device)
        if self.copies > 1:
            self.weak = JoinedViews(
                self.weak, Feed(replace(dataset, augmented=False, recipe=None), device).weak, dataset
            )

    @property
    def copies(self) -> int:
        """How often an epoch shows each image: twice where plain and augmented images are joined."""
        return 2 if self.recipe is not None and self.recipe.joined else 1

    @property
    def view_count(self) -> int | None:
        """How many different weak views an image can have; None if they cannot be counted."""
        return None if self.mixup or self.cutmix or self.recipe is not None else self.weak.view_count

    def sizes(self, size: int) -> list[int]:
        """Return the sizes of an epoch's batches, over all processes together.

        The last batch may be smaller, but a lone image joins the batch before it: batch norm needs at least two.
        """
        count = len(self.labels) * self.copies
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
        count, sizes = len(self.labels) * self.copies, self.sizes(size)
        if min(sizes) < self.shard.size:
            raise UserError(
                f"train.batch_size {size}: of {count} images, a batch of {min(sizes)} is left over, fewer than the "
                f"{self.shard.size} processes; take fewer processes or another batch_size"
            )
        if skip == len(sizes):
            return
        order = epoch_order(seed, epoch, count)
        drawn = [self.shard.share(batch) for batch in order.split(sizes)[skip:]]
        positions = torch.cat(drawn).remainder(len(self.labels)) if self.copies > 1 else torch.cat(drawn)
        indices = positions.to(self.device).split([len(batch) for batch in drawn])
        strong = epoch_strong_views(seed, epoch, count) if views > 1 else None
        distortions = self._distortions(seed, epoch)
        weak = self.weak.batches(drawn, count=views, seed=seed, epoch=epoch)
        if strong is not None:
            weak = self._with_strong(weak, drawn, strong)
        names = self.weak.names(seed, epoch) if self.view_count is not None else None
        numbers = range(skip, len(sizes))
        for number, whole, batch, index, seen in zip(numbers, sizes[skip:], drawn, indices, weak, strict=True):
            named = None if names is None else batch.numpy() * self.weak.view_count + names[batch.numpy()]
            changes = None if distortions is None else distortions.of(batch)
            if changes is not None:
                seen[0] = distort(seen[0], changes, interpolation=self._between, fill=self.fill)
            views_seen = tuple(self.normalize(view) for view in seen)
            if changes is not None:
                views_seen = (erase(views_seen[0], changes), *views_seen[1:])
            made = Batch(views_seen, self.labels[index], index, named, whole, (epoch, number))
            yield self._mixed(made, seed) if self.mixup or self.cutmix else made

    def _with_strong(
        self, seen: Iterator[list[Tensor]], drawn: list[Tensor], strong: StrongViews
    ) -> Iterator[list[Tensor]]:
        """Distort the second view of every batch, those of several batches at once, so that a GPU starts fewer kernels.

        Args:
            seen: two views (B, 3, S, S) uint8 of each batch.
            drawn: positions (B,) of the batches' images, on the CPU.
            strong: how each image is distorted.
        """
        images = min(TOGETHER, TOGETHER_PIXELS // self.dataset.image_size**2)
        count = max(1, images // max(map(len, drawn)))
        for first in range(0, len(drawn), count):
            batches = drawn[first : first + count]
            views = [next(seen) for _ in batches]
            distorted = apply_strong_views(
                torch.cat([strongly for _, strongly in views]), strong.of(torch.cat(batches))
            )
            for (weakly, _), part in zip(views, distorted.split([*map(len, batches)]), strict=True):
                yield [weakly, part]

    @property
    def _between(self) -> str:
        return (self.recipe and self.recipe.interpolation) or "bicubic"

    def _distortions(self, seed: int, epoch: int) -> Distortions | None:
        """Draw what happens to the weak views of an epoch, by their positions in its order; None for nothing."""
        if self.recipe is None:
            return None
        drawn = draw(self.recipe, seed, epoch, len(self.labels), size=self.dataset.image_size)
        return drawn.behind_plain() if self.copies > 1 else drawn

    def _mixed(self, batch: Batch, seed: int) -> Batch:
        """Mix the images of a batch with each other, all of its views in the same way."""
        size = self.dataset.image_size
        mix = mixing.draw(seed, *batch.position, mixup=self.mixup, cutmix=self.cutmix, size=size)
        return replace(
            batch,
            views=tuple(mix.images(view) for view in batch.views),
            target=mix.dominant(batch.target),
            index=mix.dominant(batch.index),
            soft=mix.labels(batch.target, len(self.dataset.classes)),
        )


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
