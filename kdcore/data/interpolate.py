"""Find the values between pixels as Pillow does: affine transforms, and parts of images resized to the whole.

Each function acts on a batch of uint8 images with a transform or a part of its own for each, on any device.
"""

import math

import torch
from torch import Tensor

from kdcore.data.affine import grid

ONE = 2.0**22
"""Pillow resizes in integers; float64 holds them."""
A = -0.5
"""The constant of the cubic kernel with which Pillow resizes; that of its affine transforms is -1."""


def affine(images: Tensor, matrix: Tensor, interpolation: str, fill: Tensor) -> Tensor:
    """Transform images.

    Args:
        images: (n, 3, H, W) uint8.
        matrix: (n, 6) float64: pixel (x, y) is taken from (a x + b y + c, d x + e y + f), all from pixels' corners.
        interpolation: "bilinear" or "bicubic".
        fill: (3,) uint8, the colour outside the images.

    Returns:
        (n, 3, H, W) uint8.
    """
    height, width = images.shape[2:]
    rows, columns = (at.double() + 0.5 for at in grid(images))
    a, b, c, d, e, f = matrix[..., None, None].unbind(dim=1)
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    beside, below = (x - left).view(-1, 1), (y - top).view(-1, 1)
    # A pixel's three levels lie beside each other, so that they are found at once.
    levels = images.permute(0, 2, 3, 1).reshape(-1, 3).double()
    first = torch.arange(len(images), device=images.device)[:, None, None] * (height * width)
    offsets = (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)
    between = _line if interpolation == "bilinear" else _cubic

    in_rows = [first + (top.long() + row).clamp(0, height - 1) * width for row in offsets]
    in_columns = [(left.long() + column).clamp(0, width - 1) for column in offsets]
    lines = [
        between(beside, *(levels.index_select(0, (row + column).flatten()) for column in in_columns)) for row in in_rows
    ]
    values = between(below, *lines).clamp(0, 255).to(torch.uint8).view(-1, height, width, 3)
    return torch.where(inside[..., None], values, fill).permute(0, 3, 1, 2).contiguous()


def _line(share: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first + (second - first) * share


def _cubic(share: Tensor, before: Tensor, first: Tensor, second: Tensor, after: Tensor) -> Tensor:
    linear, squared = second - before, 2 * (before - first) + second - after
    return first + share * (linear + share * (squared + share * (first - before + after - second)))


def resized_crop(images: Tensor, box: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize a part of each image.

    Args:
        images: (B, 3, P, P) uint8.
        box: (B, 4) int64, first row, first column, height and width of the parts.
        size: S, side of the results.
        interpolation: "bilinear" or "bicubic"; where a part becomes smaller, over as many more pixels.

    Returns:
        (B, 3, S, S) uint8: along the rows first, and rounded before the columns, as in most versions of Pillow.
    """
    top, left, height, width = box.unbind(dim=1)
    wide = _weights(images.shape[3], left, width, size, interpolation)
    high = _weights(images.shape[2], top, height, size, interpolation)
    narrowed = _rounded(images.double() @ wide[:, None].transpose(2, 3))
    return _rounded(high[:, None] @ narrowed).to(torch.uint8)


def _weights(pixels: int, first: Tensor, length: Tensor, size: int, interpolation: str) -> Tensor:
    """Return the weights (B, size, pixels), float64, of pixels along one axis; 1 is `ONE`, as Pillow has it."""
    scale = (length.double() / size)[:, None, None]
    stretched = scale.clamp(min=1)
    middle = (torch.arange(size, device=first.device)[:, None] + 0.5) * scale
    position = torch.arange(pixels, device=first.device) - first[:, None, None]
    weights = _kernel((position + 0.5 - middle) / stretched, interpolation)
    weights = weights * ((position >= 0) & (position < length[:, None, None]))
    weights = weights / weights.sum(dim=2, keepdim=True) * ONE
    return (weights + torch.copysign(torch.full_like(weights, 0.5), weights)).trunc()


def _kernel(distance: Tensor, interpolation: str) -> Tensor:
    if interpolation == "bilinear":
        return (1 - distance.abs()).clamp(min=0)
    distance = distance.abs().clamp(max=2)
    near = ((A + 2) * distance - (A + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * A
    return torch.where(distance < 1, near, far)


def _rounded(values: Tensor) -> Tensor:
    return ((values + ONE / 2) / ONE).floor().clamp(0, 255)


def turned(degrees: Tensor, size: int) -> Tensor:
    """Return the matrices (n, 6) that turn square images counter-clockwise about their centres; degrees (n,) float64.
    Pillow rounds the sines and cosines to 15 digits.
    """
    angle = -(degrees % 360) * (math.pi / 180)
    cos, sin = (values.mul(1e15).round().div(1e15) for values in (angle.cos(), angle.sin()))
    half = size / 2
    along_x = cos * -half + sin * -half + half
    along_y = -sin * -half + cos * -half + half
    return torch.stack([cos, sin, along_x, -sin, cos, along_y], dim=1)
