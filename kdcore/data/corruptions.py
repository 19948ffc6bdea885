"""Corrupt test images in sixteen ways of four families, at five severities each: the set `corruptions`, our own.

The families are those of Hendrycks and Dietterich (ICLR 2019, arXiv:1903.12261); the images are not theirs: every way
is written anew here, for images of any size, so that its figures compare networks with each other and with no published
figure. What happens to an image depends on (its position, corruption, severity) alone, not on the images beside it.
Sizes in pixels are for images of 32 pixels and grow with larger ones; smaller images take those of 32, for what is
smaller than a pixel would change nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from kdcore.system.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 32
"""The side of images, in pixels, that sizes are for."""
MOST_STEPS = 12
"""Most magnified images of which a zoom blur is the average."""
Random = np.random.Generator
Way = Callable[[np.ndarray, Random, float], np.ndarray]
"""One image (S, S, 3) float64 from 0 to 1, its random numbers, and the strength -> the corrupted one, of any range."""


@dataclass(frozen=True)
class Corruption:
    """One way to corrupt images."""

    family: str
    """noise, blur, weather or digital."""
    way: Way
    strengths: tuple[float, float, float, float, float]
    """What each severity gives to `way`; the docstring of that says what it is."""


def corrupt(images: np.ndarray, positions: Sequence[int] | np.ndarray, name: str, severity: int) -> np.ndarray:
    """Corrupt a batch of images.

    Args:
        images: (B, S, S, 3) uint8.
        positions: the position of each image among all test images, from which its random numbers come.
        name: one of `CORRUPTIONS`.
        severity: one of `SEVERITIES`.

    Returns:
        (B, S, S, 3) uint8. Each image's is the same in every batch.

    Raises:
        UserError: there is no such corruption or severity.
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        known = ", ".join(CORRUPTIONS)
        raise UserError(f"corruption {name}, severity {severity}: is none of {known}, with severity 1 to 5")
    number, one = list(CORRUPTIONS).index(name), CORRUPTIONS[name]
    strength = one.strengths[severity - 1]
    made = np.empty_like(images)
    for i, position in enumerate(positions):
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence([number, severity, int(position)])))
        changed = one.way(images[i].astype(np.float64) / 255, random, strength)
        made[i] = np.rint(changed.clip(0, 1) * 255).astype(np.uint8)
    return made


def _unit(image: np.ndarray) -> float:
    """Return how many pixels of an image are one of an image of `SIDE` pixels, at least 1."""
    return max(1.0, image.shape[0] / SIDE)


# Noise: per value, whatever the size of the image


def gaussian_noise(image: np.ndarray, random: Random, deviation: float) -> np.ndarray:
    """Add normal noise of this deviation to every value."""
    return image + deviation * random.standard_normal(image.shape)


def shot_noise(image: np.ndarray, random: Random, photons: float) -> np.ndarray:
    """Count photons (Poisson), of which white has so many on average."""
    return random.poisson(image * photons) / photons


def impulse_noise(image: np.ndarray, random: Random, share: float) -> np.ndarray:
    """Set this share of the values to black or white."""
    drawn = random.random(image.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, image))


def speckle_noise(image: np.ndarray, random: Random, deviation: float) -> np.ndarray:
    """Multiply every value by a normal number of mean 1 and this deviation."""
    return image * (1 + deviation * random.standard_normal(image.shape))


# Blur: averages over neighbours; beyond the border, the border's values go on


def gaussian_blur(image: np.ndarray, random: Random, deviation: float) -> np.ndarray:
    """Average with normal weights of this deviation, in pixels."""
    sigma = deviation * _unit(image)
    blurred: np.ndarray = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")
    return blurred


def defocus_blur(image: np.ndarray, random: Random, radius: float) -> np.ndarray:
    """Average over a disk of this radius, in pixels, whose edge is soft over one pixel."""
    radius *= _unit(image)
    reach = math.ceil(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filtered(image, (radius + 0.5 - np.hypot(rows, columns)).clip(0, 1))


def motion_blur(image: np.ndarray, random: Random, length: float) -> np.ndarray:
    """Average along a line of this length, in pixels, in a random direction."""
    return _filtered(image, _line(length * _unit(image), random.uniform(0, math.pi)))


def zoom_blur(image: np.ndarray, random: Random, zoom: float) -> np.ndarray:
    """Average the image with those that are magnified about its centre, by up to this share."""
    steps = min(MOST_STEPS, 1 + math.ceil(zoom * image.shape[0] / 2))
    return np.mean([_magnified(image, 1 + zoom * step / steps) for step in range(steps + 1)], axis=0)


# Weather


def fog(image: np.ndarray, random: Random, density: float) -> np.ndarray:
    """Lay a bright veil over the image, thicker in some places; `density` is its mean share, half as much or again."""
    thickness = density * (0.5 + _cloud(image.shape[0], random))[..., None]
    return image + thickness.clip(0, 1) * (0.85 - image)


def snow(image: np.ndarray, random: Random, share: float) -> np.ndarray:
    """Let flakes fall over this share of the image, all in one direction, and whiten the air between them."""
    side = image.shape[0]
    cells = math.ceil(side / _unit(image))
    flakes = (random.random((cells, cells)) < share) * random.uniform(0.5, 1, (cells, cells))
    grown = ndimage.zoom(flakes, side / cells, order=1, mode="nearest", grid_mode=True)
    line = _line(3 * _unit(image), random.uniform(math.pi / 4, 3 * math.pi / 4))
    fallen = (2 * _filtered(grown[..., None], line)).clip(0, 1)
    return image + (1 - image) * (1 - (1 - fallen) * (1 - share))


def brightness(image: np.ndarray, random: Random, amount: float) -> np.ndarray:
    """Add so much to every value."""
    return image + amount


def darkness(image: np.ndarray, random: Random, share: float) -> np.ndarray:
    """Take this share of the light away."""
    return image * (1 - share)


# Digital


def contrast(image: np.ndarray, random: Random, kept: float) -> np.ndarray:
    """Keep this share of each value's distance from the channel's mean."""
    mean = image.mean(axis=(0, 1))
    return mean + kept * (image - mean)


def elastic(image: np.ndarray, random: Random, amplitude: float) -> np.ndarray:
    """Move every pixel, neighbours alike, by up to about so many pixels along each axis."""
    side = image.shape[0]
    moved = [2 * amplitude * _unit(image) * (_cloud(side, random) - 0.5) for _ in range(2)]
    places = [axis + by for axis, by in zip(np.mgrid[:side, :side], moved, strict=True)]
    return np.stack(
        [ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in np.moveaxis(image, 2, 0)],
        axis=2,
    )


def pixelate(image: np.ndarray, random: Random, share: float) -> np.ndarray:
    """Shrink the image to this share of its side by averaging, and show each pixel of that as a square."""
    side = image.shape[0]
    small = max(1, round(share * min(side, SIDE)))
    shrunk = _picture(image).resize((small, small), Image.Resampling.BOX)
    return np.asarray(shrunk.resize((side, side), Image.Resampling.NEAREST)) / 255


def jpeg(image: np.ndarray, random: Random, quality: float) -> np.ndarray:
    """Store the image as JPEG of this quality, as Pillow counts it."""
    file = BytesIO()
    _picture(image).save(file, "JPEG", quality=int(quality))
    with Image.open(file, formats=["JPEG"]) as stored:
        return np.asarray(stored.convert("RGB")) / 255


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def _filtered(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average an image (S, S, channels) with weights (odd, odd) around each pixel, which are scaled to sum to 1."""
    rows, columns = (side // 2 for side in weights.shape)
    wider = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    filtered: np.ndarray = signal.fftconvolve(wider, weights[..., None] / weights.sum(), mode="valid", axes=(0, 1))
    return filtered


def _line(length: float, angle: float) -> np.ndarray:
    """Return the weights of the pixels around a line through the middle: (odd, odd), each point spread over four."""
    reach = math.ceil(length / 2) + 1
    weights = np.zeros((2 * reach + 1, 2 * reach + 1))
    for along in np.linspace(-length / 2, length / 2, 4 * reach + 1):
        row, column = reach + along * math.sin(angle), reach + along * math.cos(angle)
        top, left = math.floor(row), math.floor(column)
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            weights[y, x] += (1 - abs(row - y)) * (1 - abs(column - x))
    return weights


def _magnified(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the middle of an image at the image's size, interpolated linearly."""
    first = (image.shape[0] - 1) / 2 * (1 - 1 / factor)
    options: dict[str, Any] = {"offset": (first, first, 0), "order": 1, "mode": "nearest"}
    magnified: np.ndarray = ndimage.affine_transform(image, (1 / factor, 1 / factor, 1), **options)
    return magnified


def _cloud(side: int, random: Random) -> np.ndarray:
    """Draw a smooth field (side, side) whose least value is 0 and whose largest is 1, with lumps of an eighth of it."""
    cells = math.ceil(side / max(1.0, side / SIDE))
    field = ndimage.gaussian_filter(random.standard_normal((cells, cells)), cells / 8, mode="wrap")
    grown = ndimage.zoom(field, side / cells, order=1, mode="nearest", grid_mode=True)
    cloud: np.ndarray = (grown - grown.min()) / (grown.max() - grown.min())
    return cloud


CORRUPTIONS = {
    "gaussian_noise": Corruption("noise", gaussian_noise, (0.03, 0.05, 0.07, 0.1, 0.14)),
    "shot_noise": Corruption("noise", shot_noise, (500, 250, 120, 60, 30)),
    "impulse_noise": Corruption("noise", impulse_noise, (0.005, 0.015, 0.03, 0.06, 0.1)),
    "speckle_noise": Corruption("noise", speckle_noise, (0.06, 0.1, 0.15, 0.21, 0.28)),
    "gaussian_blur": Corruption("blur", gaussian_blur, (0.5, 0.7, 0.95, 1.25, 1.6)),
    "defocus_blur": Corruption("blur", defocus_blur, (0.7, 0.95, 1.25, 1.65, 2.1)),
    "motion_blur": Corruption("blur", motion_blur, (1.5, 2.5, 3.5, 5, 7)),
    "zoom_blur": Corruption("blur", zoom_blur, (0.06, 0.12, 0.19, 0.27, 0.36)),
    "fog": Corruption("weather", fog, (0.2, 0.32, 0.44, 0.56, 0.68)),
    "snow": Corruption("weather", snow, (0.02, 0.045, 0.075, 0.11, 0.15)),
    "brightness": Corruption("weather", brightness, (0.1, 0.18, 0.26, 0.34, 0.42)),
    "darkness": Corruption("weather", darkness, (0.25, 0.4, 0.55, 0.68, 0.8)),
    "contrast": Corruption("digital", contrast, (0.75, 0.55, 0.4, 0.27, 0.16)),
    "elastic": Corruption("digital", elastic, (1, 1.7, 2.4, 3.2, 4.2)),
    "pixelate": Corruption("digital", pixelate, (0.9, 0.82, 0.72, 0.6, 0.45)),
    "jpeg": Corruption("digital", jpeg, (80, 60, 40, 25, 15)),
}
"""Corruption -> what it does; the order gives each its random numbers, so new ones go to the end."""
