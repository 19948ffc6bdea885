"""Draw the order and the views of training images from (seed, epoch, index) alone.

No generator state is carried from step to step: the images of any epoch can be drawn again on any machine, and two
runs with one seed see the same ones, whatever their method.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcore.data.affine import rotate

ORDER, VIEWS, STRONG, STRONG_CROP, METHODS, ROTATION, STRONG_ROTATION, DROPOUT = range(8)
MIXING, RESIZED, STRONG_RESIZED, DISTORTIONS, MAGNITUDES, JITTER, ERASING, NOISE = range(8, 16)
"""Purposes for which numbers are drawn: each has a random generator of its own in every epoch."""


@dataclass(frozen=True)
class Views:
    """How each of N training images is seen in one epoch."""

    top: Tensor
    """(N,) int64, row of the padded image at which the crop begins."""
    left: Tensor
    """(N,) int64, column of the padded image at which the crop begins."""
    mirrored: Tensor
    """(N,) bool."""
    angle: Tensor | None = None
    """(N,) float64, degrees by which it is turned first; None where none is."""

    def of(self, index: Tensor) -> "Views":
        """Select the views of some of the images."""
        return self._each(lambda values: values[index])

    def to(self, device: torch.device) -> "Views":
        """Copy the views to another device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Views":
        angle = None if self.angle is None else change(self.angle)
        return Views(change(self.top), change(self.left), change(self.mirrored), angle)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Draw a permutation (count,) of the training images."""
    return torch.from_numpy(generator(seed, epoch, ORDER).permutation(count))


def epoch_views(
    seed: int, epoch: int, count: int, *, offsets: int, flip: bool, rotation: float = 0.0, strong: bool = False
) -> Views:
    """Draw a random crop, mirroring and turn for each image; those of image i do not depend on `count`.

    Args:
        seed: seed of the run.
        epoch: counted from 1.
        count: number of images.
        offsets: how many rows, and columns, a crop may begin at.
        flip: whether half of the images are mirrored.
        rotation: largest angle in degrees.
        strong: draw the crops that strong views begin with, which differ from those of weak views.
    """
    draws = generator(seed, epoch, STRONG_CROP if strong else VIEWS).random((count, 3))
    top, left = torch.from_numpy((draws[:, :2] * offsets).astype(np.int64)).unbind(dim=1)
    mirrored = torch.from_numpy(draws[:, 2] < 0.5) if flip else torch.zeros(count, dtype=torch.bool)
    angle = None
    if rotation:
        turns = generator(seed, epoch, STRONG_ROTATION if strong else ROTATION).uniform(-rotation, rotation, count)
        angle = torch.from_numpy(turns)
    return Views(top, left, mirrored, angle)


def apply_views(images: Tensor, views: Views, *, size: int, padding: int) -> Tensor:
    """Turn, crop and mirror a batch.

    Args:
        images: (B, P, P, 3) uint8.
        views: of these B images.
        size: S, side of the crops.
        padding: width of the black border around the images from which crops are taken.

    Returns:
        (B, 3, S, S) uint8.
    """
    if views.angle is not None:
        images = rotate(images.permute(0, 3, 1, 2).contiguous(), views.angle).permute(0, 2, 3, 1)
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, size, 1).unfold(2, size, 1)
    cropped = windows[torch.arange(len(images), device=images.device), views.top, views.left]
    return torch.where(views.mirrored[:, None, None, None], cropped.flip(-1), cropped)


def middle(images: Tensor, size: int) -> Tensor:
    """Cut out the middle of each image of a batch: (B, P, P, 3) -> (B, 3, size, size)."""
    first = (images.shape[1] - size) // 2
    return images[:, first : first + size, first : first + size].permute(0, 3, 1, 2)


class Normalize:
    """Normalise images by the data set's mean and standard deviation.

    Args:
        mean: per channel, of images in [0, 1].
        std: per channel.
        device: device of the images; nothing is copied to it later.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device) -> None:
        self.shift = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self.scale = 255 * torch.tensor(std, device=device).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise a batch: (B, 3, H, W) uint8 -> float32, channels last in memory."""
        return ((images.float() - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)


def generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """Return the random generator of one purpose (`ORDER` to `NOISE`) in one epoch."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, purpose])))
