"""Training order and views, drawn from (seed, epoch, index) alone.

No generator state is carried from step to step: the images of any epoch can be made again on any machine, and two
runs with one seed see the same ones, whatever their method.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ORDER, VIEWS, STRONG, STRONG_CROP, METHODS = range(5)
"""What is drawn from (seed, epoch)."""


@dataclass(frozen=True)
class Views:
    """How each of N training images is seen in one epoch."""

    top: Tensor
    """(N,) int64, row of the padded image at which the crop begins, 0 to 2 * padding."""
    left: Tensor
    """(N,) int64, column likewise."""
    mirrored: Tensor
    """(N,) bool."""

    def of(self, index: Tensor) -> "Views":
        """The views of some of the images."""
        return Views(self.top[index], self.left[index], self.mirrored[index])

    def to(self, device: torch.device) -> "Views":
        """The same on another device."""
        return Views(self.top.to(device), self.left.to(device), self.mirrored.to(device))


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """A permutation (count,) of the training images."""
    return torch.from_numpy(generator(seed, epoch, ORDER).permutation(count))


def epoch_views(seed: int, epoch: int, count: int, *, padding: int, flip: bool, purpose: int = VIEWS) -> Views:
    """One random crop offset and mirroring for each of `count` images; image i's do not depend on `count`."""
    draws = generator(seed, epoch, purpose).random((count, 3))
    top, left = torch.from_numpy((draws[:, :2] * (2 * padding + 1)).astype(np.int64)).unbind(dim=1)
    mirrored = torch.from_numpy(draws[:, 2] < 0.5) if flip else torch.zeros(count, dtype=torch.bool)
    return Views(top, left, mirrored)


def apply_views(images: Tensor, views: Views, *, padding: int) -> Tensor:
    """Crop and mirror a batch.

    Args:
        images: (B, H, W, 3) uint8.
        views: of these B images.
        padding: width of the black border from which crops are taken.

    Returns:
        (B, 3, H, W) uint8.
    """
    batch, height, width, _ = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)
    cropped = windows[torch.arange(batch, device=images.device), views.top, views.left]
    return torch.where(views.mirrored[:, None, None, None], cropped.flip(-1), cropped)


class Normalize:
    """Takes the data set's mean and deviation out of images.

    Args:
        mean: per channel, of images in [0, 1].
        std: per channel.
        device: of the images; nothing is copied to it later.
    """

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device) -> None:
        self.shift = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self.scale = 255 * torch.tensor(std, device=device).view(3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, channels last in memory."""
        return ((images.float() - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)


def device_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """For what methods draw on the device while they train."""
    state = np.random.SeedSequence([seed, epoch, METHODS]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


def generator(seed: int, epoch: int, purpose: int) -> np.random.Generator:
    """What one purpose draws in one epoch; see `ORDER` and its neighbours."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, purpose])))
