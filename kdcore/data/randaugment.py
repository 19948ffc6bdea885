"""The strong view of MLKD: Jin et al., Multi-level Logit Distillation, CVPR 2023: RandAugment, then a cutout.

RandAugment is Cubuk et al., arXiv:1909.13719, with the operations and ranges of FixMatch, arXiv:2001.07685, in the
authors' setting: two operations per image, drawn with replacement, each with a magnitude drawn uniformly from its
range. The crop and mirroring that come first are done by `apply_views`.

Each operation gives the same grey levels as Pillow's operation of that name. It acts on a batch with one magnitude per
image, on any device, and reads nothing back from it: which image takes which operation is known on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcore.data.affine import grid, rotate, shear_x, shear_y, translate_x, translate_y
from kdcore.data.augment import STRONG, generator

ROUNDS = 2
LARGEST_CUTOUT = 0.5
"""Side of the largest cutout, as a fraction of the image's width."""
CUTOUT_COLOUR = (125, 123, 114)
"""RGB, about the mean of natural images."""


def identity(images: Tensor, magnitude: Tensor) -> Tensor:
    """Return the images unchanged."""
    del magnitude
    return images


def autocontrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Stretch each channel to 0..255; one of a single grey level stays as it is. The magnitude is not used."""
    del magnitude
    low, high = (end[..., None] for end in images.flatten(2).aminmax(dim=2, keepdim=True))
    # Rounded as Pillow's table is, whose products may fall just short of an integer; 255 / span would be a reciprocal's
    # multiple.
    span = (high - low).clamp(min=1).double()
    scale = torch.full_like(span, 255) / span
    stretched = (images * scale + -low.double() * scale).clamp(0, 255).to(torch.uint8)
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Make each channel's grey levels about equally frequent. The magnitude is not used."""
    del magnitude
    pixels = images.contiguous().flatten(2)
    # Counted by sorting: a histogram would add atomically on a GPU, or have its size read back.
    ordered = pixels.sort(dim=2).values
    levels = torch.arange(256, dtype=torch.uint8, device=images.device).expand(*ordered.shape[:2], 256)
    darker = torch.searchsorted(ordered, levels.contiguous())
    step = darker.gather(2, ordered[..., -1:].long()) // 255
    table = ((step // 2 + darker) // step.clamp(min=1)).clamp(max=255).to(torch.uint8)
    equalized = torch.where(step > 0, table.gather(2, pixels.long()), pixels)
    return equalized.view(images.shape)


def posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Keep the highest int(magnitude) of the 8 bits, at least one."""
    dropped = 8 - magnitude.long().clamp(min=1)
    return images & _per_image(256 - (1 << dropped)).to(torch.uint8)


def solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    """Invert the grey levels from the magnitude, in 0..256, upwards."""
    return torch.where(images < _per_image(magnitude), images, 255 - images)


def brightness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Interpolate from black (magnitude 0) to the image (1)."""
    return _blend(torch.zeros_like(images), images, magnitude)


def color(images: Tensor, magnitude: Tensor) -> Tensor:
    """Interpolate from the image's greys (magnitude 0) to the image (1)."""
    return _blend(_luma(images)[:, None], images, magnitude)


def contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    """Interpolate from the image's mean grey (magnitude 0) to the image (1)."""
    total = _luma(images).sum(dim=(1, 2))
    pixels = images.shape[2] * images.shape[3]
    return _blend(_per_image((2 * total + pixels) // (2 * pixels)), images, magnitude)


def sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Interpolate from the smoothed image (magnitude 0) to the image (1); the border is not smoothed."""
    levels = images.short()
    three_rows = levels[:, :, :-2] + levels[:, :, 1:-1] + levels[:, :, 2:]
    nine = three_rows[..., :-2] + three_rows[..., 1:-1] + three_rows[..., 2:]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (nine + 4 * levels[:, :, 1:-1, 1:-1] + 6) // 13
    return _blend(smooth, images, magnitude)


Operation = Callable[[Tensor, Tensor], Tensor]
"""(images (n, 3, H, W) uint8, magnitude (n,) floating, on one device) -> (n, 3, H, W) uint8."""

OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "autocontrast": (autocontrast, 0, 1),
    "brightness": (brightness, 0.05, 0.95),
    "color": (color, 0.05, 0.95),
    "contrast": (contrast, 0.05, 0.95),
    "equalize": (equalize, 0, 1),
    "identity": (identity, 0, 1),
    "posterize": (posterize, 4, 8),
    "rotate": (rotate, -30, 30),
    "sharpness": (sharpness, 0.05, 0.95),
    "shear_x": (shear_x, -0.3, 0.3),
    "shear_y": (shear_y, -0.3, 0.3),
    "solarize": (solarize, 0, 256),
    "translate_x": (translate_x, -0.3, 0.3),
    "translate_y": (translate_y, -0.3, 0.3),
}
"""Name -> function, lowest and highest magnitude. Draws name an operation by its position here."""


@dataclass(frozen=True)
class StrongViews:
    """How each of N training images is distorted in one epoch; on the CPU."""

    operation: Tensor
    """(N, 2) int64, positions in `OPERATIONS`, first and second."""
    magnitude: Tensor
    """(N, 2) float64 in [0, 1): where in the operation's range."""
    cutout: Tensor
    """(N, 3) float64 in [0, 1): side, as a fraction of the largest; x and y of the centre, of width and height."""

    def of(self, index: Tensor) -> "StrongViews":
        """Select the views of some of the images; the index is on the CPU."""
        return StrongViews(self.operation[index], self.magnitude[index], self.cutout[index])


def epoch_strong_views(seed: int, epoch: int, count: int) -> StrongViews:
    """Draw operations, magnitudes and cutout of each image; those of image i do not depend on `count`."""
    draws = generator(seed, epoch, STRONG).random((count, 2 * ROUNDS + 3))
    operation = (draws[:, :ROUNDS] * len(OPERATIONS)).astype(np.int64)
    magnitude, cutout = draws[:, ROUNDS : 2 * ROUNDS], draws[:, 2 * ROUNDS :]
    return StrongViews(torch.from_numpy(operation), torch.from_numpy(magnitude), torch.from_numpy(cutout))


def apply_strong_views(images: Tensor, views: StrongViews) -> Tensor:
    """Distort a batch that has been cropped and mirrored.

    Args:
        images: (B, 3, H, W) uint8, B > 0, on any device.
        views: the operations, magnitudes and cutouts of these B images.

    Returns:
        (B, 3, H, W) uint8.
    """
    images = images.contiguous()
    for operation, magnitude in zip(views.operation.unbind(dim=1), views.magnitude.unbind(dim=1), strict=True):
        images = _one_round(images, operation, magnitude)
    return _cut_out(images, views.cutout)


def _one_round(images: Tensor, operation: Tensor, fraction: Tensor) -> Tensor:
    """Apply one operation to every image, all images of the same operation at once."""
    functions, low, high = zip(*OPERATIONS.values(), strict=True)
    lowest, highest = (torch.tensor(ends, dtype=torch.float64)[operation] for ends in (low, high))
    magnitude = lowest + (highest - lowest) * fraction
    order = operation.argsort(stable=True)
    counts = operation.bincount(minlength=len(functions)).tolist()
    there, back = torch.stack([order, order.argsort()]).to(images.device, non_blocking=True)
    magnitudes = magnitude[order].to(images.device, non_blocking=True).split(counts)
    groups = zip(functions, images[there].split(counts), magnitudes, strict=True)
    return torch.cat([function(group, its) for function, group, its in groups if len(group)])[back]


def _cut_out(images: Tensor, cutout: Tensor) -> Tensor:
    """Paint one square per image.

    As published, a square that would begin outside the image is moved inside, and its last row and column, which
    Pillow takes to be part of it, are painted too. The published code draws the centre with numpy's `uniform(width)`,
    which begins at 1; here it begins at 0.
    """
    height, width = images.shape[2:]
    size = torch.tensor([[width], [height]])
    side = cutout[:, 0] * LARGEST_CUTOUT * width
    first = (cutout[:, 1:].T * size - side / 2).clamp(min=0).floor()
    last = torch.minimum(first + side, size).floor()
    bounds = torch.stack([first, last]).long().to(images.device, non_blocking=True)
    (left, top), (right, bottom) = bounds[..., None, None]
    rows, columns = grid(images)
    inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    colour = torch.tensor(CUTOUT_COLOUR, dtype=torch.uint8).view(3, 1, 1).to(images.device, non_blocking=True)
    return torch.where(inside[:, None], colour, images)


def _blend(start: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Interpolate from `start` (weight 0) to the images (1), and beyond, with Pillow's precision and truncation."""
    origin = start.float()
    return (origin + _per_image(weight.float()) * (images.float() - origin)).clamp(0, 255).to(torch.uint8)


def _luma(images: Tensor) -> Tensor:
    """Return ITU-R 601-2 luma (n, H, W), int32 in 0..255, in Pillow's fixed point."""
    red, green, blue = images.int().unbind(dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
