"""Distort training images as a recipe of training asks for: resized crops, RandAugment, colour jitter, erasing.

What happens to an image depends on (seed, epoch, image) alone; it is drawn on the CPU, for an epoch at once.
"""

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcore.data import timm_randaugment
from kdcore.data.affine import grid
from kdcore.data.augment import (
    DISTORTIONS,
    ERASING,
    JITTER,
    MAGNITUDES,
    NOISE,
    RESIZED,
    STRONG_RESIZED,
    generator,
)

if TYPE_CHECKING:
    from kdcore.matrix.train_recipe import Augmentation

ATTEMPTS = 10
"""How often a rectangle is drawn until it fits into the image."""
CROPPED, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Area of a resized crop, as a share of the image's, and width by height (Szegedy et al., arXiv:1409.4842)."""
ERASED, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""The same of erased rectangles, with height by width (Zhong et al., AAAI 2020, arXiv:1708.04896; timm)."""
JITTERED = ("brightness", "contrast", "color")
UNCHANGED = np.int64(len(JITTERED))


@dataclass(frozen=True)
class Distortions:
    """What happens to each of N images in one epoch; on the CPU."""

    operation: Tensor
    """(N, R) int64, positions in `timm_randaugment.NAMES`."""
    argument: Tensor
    """(N, R) float64, see `timm_randaugment.arguments`."""
    jitter: Tensor
    """(N, J) int64, positions in `JITTERED` in their order; behind the last, none. J is 0 or 3."""
    factor: Tensor
    """(N, J) float64, the weight of the image."""
    erased: Tensor
    """(N, 4) int64, first row, first column, height and width of a rectangle; height 0 for none."""
    key: Tensor
    """(N,) int64, from which the noise in the rectangle comes."""

    def of(self, index: Tensor) -> "Distortions":
        """Select those of some of the images; the index is on the CPU."""
        return Distortions(*(getattr(self, field.name)[index] for field in fields(self)))

    def behind_plain(self) -> "Distortions":
        """Return those of 2 N images of which the first N stay as they are."""
        still = Distortions(
            torch.full_like(self.operation, timm_randaugment.NOTHING),
            self.argument,
            torch.full_like(self.jitter, int(UNCHANGED)),
            self.factor,
            torch.zeros_like(self.erased),
            self.key,
        )
        return Distortions(
            *(torch.cat([getattr(still, field.name), getattr(self, field.name)]) for field in fields(self))
        )


def draw(recipe: "Augmentation", seed: int, epoch: int, count: int, *, size: int) -> Distortions:
    """Draw what happens to each of `count` images of this size; that of image i does not depend on `count`."""
    rounds, drawn, erasing = 0, np.zeros((count, 0, 3)), recipe.erasing or 0.0
    magnitude = np.zeros((count, 0))
    if (given := recipe.randaugment) is not None:
        rounds = given.operations
        drawn = generator(seed, epoch, DISTORTIONS).random((count, rounds, 3))
        spread = generator(seed, epoch, MAGNITUDES).standard_normal((count, rounds))
        magnitude = np.clip(given.magnitude + given.std * spread, 0, timm_randaugment.MOST)
    operation = (drawn[..., 0] * timm_randaugment.NOTHING).astype(np.int64)
    increasing = recipe.randaugment is not None and recipe.randaugment.increasing
    argument = timm_randaugment.arguments(operation, magnitude, drawn[..., 1] > 0.5, increasing=increasing)
    operation = np.where(drawn[..., 2] < timm_randaugment.APPLIED, operation, timm_randaugment.NOTHING)
    jitter, factor = np.zeros((count, 0), dtype=np.int64), np.zeros((count, 0))
    if recipe.colour_jitter is not None:
        draws = generator(seed, epoch, JITTER).random((count, 2, len(JITTERED)))
        jitter, factor = draws[:, 0].argsort(axis=1), 1 + recipe.colour_jitter * (2 * draws[:, 1] - 1)
    draws = generator(seed, epoch, ERASING).random((count, 2 * ATTEMPTS + 3)) if erasing else np.ones((count, 23))
    erased = rectangles(draws[:, 1:], size, ERASED, ERASED_ASPECT, below=True)
    erased[draws[:, 0] >= erasing] = 0
    key = generator(seed, epoch, NOISE).integers(2**63, size=count) if erasing else np.zeros(count, dtype=np.int64)
    return Distortions(*map(torch.from_numpy, (operation, argument, jitter, factor, erased, key)))


def boxes(seed: int, epoch: int, count: int, *, size: int, strong: bool = False) -> Tensor:
    """Draw the part of each of `count` square images that a resized crop shows.

    Args:
        seed: seed of the run.
        epoch: counted from 1.
        count: number of images.
        size: of the images.
        strong: draw those of strong views, which differ from those of weak ones.

    Returns:
        (N, 4) int64: first row, first column, height and width.
    """
    draws = generator(seed, epoch, STRONG_RESIZED if strong else RESIZED).random((count, 2 * ATTEMPTS + 2))
    return torch.from_numpy(rectangles(draws, size, CROPPED, (1 / ASPECT[1], 1 / ASPECT[0]), below=False))


def rectangles(
    draws: np.ndarray, size: int, area: tuple[float, float], aspect: tuple[float, float], *, below: bool
) -> np.ndarray:
    """Return the first rectangles that fit into square images.

    Args:
        draws: (N, 22) in [0, 1): ten times area and aspect; row and column.
        size: of the images.
        area: the least and the largest, as shares of the image's.
        aspect: the least and the largest height by width; the logarithm is uniform.
        below: whether they must be smaller than the image; if not, as large at most.

    Returns:
        (N, 4) int64: first row, first column, height and width; the whole image where none fits.
    """
    shares = area[0] + (area[1] - area[0]) * draws[:, : 2 * ATTEMPTS : 2]
    low, high = map(math.log, aspect)
    ratios = np.exp(low + (high - low) * draws[:, 1 : 2 * ATTEMPTS : 2])
    sides = np.rint(np.sqrt(shares * size**2 * np.stack([ratios, 1 / ratios]))).astype(np.int64)
    fits = ((sides > 0) & (sides < size + (not below))).all(axis=0)
    first = fits.argmax(axis=1)
    side = np.where(fits.any(axis=1), sides[:, np.arange(len(draws)), first], size)
    corner = (draws[:, -2:].T * (size - side + 1)).astype(np.int64)
    return np.concatenate([corner, side]).T.copy()


def distort(images: Tensor, distortions: Distortions, *, interpolation: str, fill: Tensor) -> Tensor:
    """Apply RandAugment and colour jitter to a batch.

    Args:
        images: (B, 3, S, S) uint8, on any device.
        distortions: of these images.
        interpolation: of turns, shears and shifts.
        fill: (3,) uint8 on the images' device, the colour that comes from outside.
    """
    images = images.contiguous()
    for operation, argument in zip(distortions.operation.T, distortions.argument.T, strict=True):
        images = timm_randaugment.apply(images, operation, argument, interpolation=interpolation, fill=fill)
    names = torch.tensor([timm_randaugment.NAMES.index(name) for name in JITTERED] + [timm_randaugment.NOTHING])
    for jitter, factor in zip(distortions.jitter.T, distortions.factor.T, strict=True):
        images = timm_randaugment.apply(images, names[jitter], factor, interpolation=interpolation, fill=fill)
    return images


def erase(images: Tensor, distortions: Distortions) -> Tensor:
    """Fill the rectangles of a batch (B, 3, S, S), normalised, with standard normal noise; its memory is taken over."""
    chosen = distortions.erased[:, 2].nonzero()[:, 0]
    if not len(chosen):
        return images
    device = images.device
    bounds = torch.cat([distortions.erased[chosen], distortions.key[chosen, None]], dim=1).to(device, non_blocking=True)
    top, left, height, width = bounds[:, :4, None, None].unbind(dim=1)
    rows, columns = grid(images)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    where = chosen.to(device, non_blocking=True)
    noise = normal(bounds[:, 4], images.shape[1:].numel()).view(-1, *images.shape[1:])
    return images.index_copy_(0, where, torch.where(inside[:, None], noise.to(images.dtype), images[where]))


def normal(key: Tensor, count: int) -> Tensor:
    """Return `count` standard normal numbers (n, count), float32, for each key (n,) int64, on its device.

    They come from the counts by SplitMix64 (Steele et al., OOPSLA 2014) and Box's and Muller's formula, so that those
    of a key depend on nothing else, such as the other keys or the number of processes.
    """
    values = key[:, None] + torch.arange(1, count + 1, device=key.device) * _signed(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    values = values ^ _shifted(values, 31)
    radius, angle = (((values >> bits) & 0xFFFFFF).float() for bits in (40, 8))
    return (-2 * ((radius + 0.5) / 2**24).log()).sqrt() * (angle * (2 * math.pi / 2**24)).cos()


def _signed(constant: int) -> int:
    return constant - 2**64


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift 64 bits to the right, and zeros in from the left."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
