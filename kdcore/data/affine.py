"""Turn, shear and shift images by nearest-pixel sampling, as Pillow's `rotate` and affine `transform` do.

Each function acts on a batch of uint8 images (n, 3, H, W) with one magnitude per image (n,), on any device.
"""

import torch
from torch import Tensor


def rotate(images: Tensor, magnitude: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre, by degrees."""
    height, width = images.shape[2:]
    angle = -torch.deg2rad(magnitude.double())
    cos, sin = angle.cos(), angle.sin()
    columns = _source(images, cos, sin, cos * (-width / 2) + sin * (-height / 2) + width / 2)
    rows = _source(images, -sin, cos, -sin * (-width / 2) + cos * (-height / 2) + height / 2)
    return _sample(images, rows, columns)


def shear_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift row y to the left by magnitude * y."""
    shear = magnitude.double()
    rows, _ = grid(images)
    return _sample(images, rows, _source(images, torch.ones_like(shear), shear, torch.zeros_like(shear)))


def shear_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift column x upwards by magnitude * x."""
    shear = magnitude.double()
    _, columns = grid(images)
    return _sample(images, _source(images, shear, torch.ones_like(shear), torch.zeros_like(shear)), columns)


def translate_x(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift to the left, by a fraction of the width."""
    rows, columns = grid(images)
    return _sample(images, rows, columns + _whole_pixels(magnitude, images.shape[3]))


def translate_y(images: Tensor, magnitude: Tensor) -> Tensor:
    """Shift upwards, by a fraction of the height."""
    rows, columns = grid(images)
    return _sample(images, rows + _whole_pixels(magnitude, images.shape[2]), columns)


def grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row (H, 1) and column (W,) numbers of the pixels, int64."""
    height, width = images.shape[2:]
    return torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)


def _source(images: Tensor, per_x: Tensor, per_y: Tensor, constant: Tensor) -> Tensor:
    """Return the row or column (n, H, W), at per_x * x + per_y * y + constant, from which pixel (x, y) is taken.

    In 16.16 fixed point from pixel centres, as Pillow does, so that the same pixels are chosen.
    """
    rows, columns = grid(images)
    terms = torch.stack([constant + per_x * 0.5 + per_y * 0.5, per_y, per_x])
    origin, along_y, along_x = torch.floor(terms * 65536 + 0.5).long()[..., None, None]
    return (origin + along_y * rows + along_x * columns) >> 16


def _whole_pixels(fraction: Tensor, size: int) -> Tensor:
    return torch.floor(fraction.double() * size + 0.5).long()[:, None, None]


def _sample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Take the pixels at rows and columns, each broadcastable to (n, H, W); black outside the image."""
    height, width = images.shape[2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixel = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    taken = images.flatten(2).gather(2, pixel.flatten(1)[:, None].expand(-1, 3, -1))
    return taken.view(images.shape) * inside[:, None]
