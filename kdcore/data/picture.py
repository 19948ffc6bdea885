"""One encoded image: how it is opened, and why it may not be.

As torchvision's loader, which published code uses: an orientation in EXIF is ignored, transparency dropped.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are no images, or are damaged."""
SIXTEEN_AS_32 = ("PNG", "PPM")
"""Formats whose 16-bit greys some versions of Pillow open with 32."""


class UnreadableError(Exception):
    """An image that cannot be read; the message says why, not which."""


def read(image: Path | bytes) -> Image.Image:
    """Decode an image, in RGB of 8 bits; of 16-bit greys the higher 8, as Pillow does with 16-bit colours.

    Args:
        image: a file, or its content.

    Raises:
        UnreadableError: it is missing, no image, damaged, or of 32 bits per pixel and channel.
    """
    try:
        with _opened(image) as picture:
            if picture.mode.startswith("I"):
                return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
            return picture.convert("RGB")
    except BROKEN as error:
        raise UnreadableError(_reason(error)) from error


def check(image: Path | bytes) -> None:
    """Look at the beginning of an image, without decoding it. Argument and errors as of `read`."""
    try:
        _opened(image).close()
    except BROKEN as error:
        raise UnreadableError(_reason(error)) from error


def _opened(image: Path | bytes) -> Image.Image:
    picture = Image.open(image if isinstance(image, Path) else BytesIO(image))
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in SIXTEEN_AS_32):
        picture.close()
        raise UnreadableError("of 32 bits per pixel, whose range is unknown; convert it to 8 or 16 bits")
    return picture


def _reason(error: Exception) -> str:
    return "cannot identify an image in it" if isinstance(error, UnidentifiedImageError) else str(error)
