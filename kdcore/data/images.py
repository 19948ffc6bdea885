"""Decode one image, or say why it cannot be decoded.

An orientation in EXIF is ignored and transparency dropped, as in torchvision's loader, which published code uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdcore.system.errors import shown

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are opened, whatever a file's name says: for others Pillow may start programs, such as Ghostscript."""
SIXTEEN_AS_32 = ("PNG", "PPM")
"""Formats whose 16-bit greys some versions of Pillow open with 32."""
LARGEST = 89_478_485
"""Most pixels of an image; above it Pillow warns. Decoding takes 8 to 16 bytes per pixel, however small the file."""
LARGE = 16_000_000
"""Number of pixels from which images are decoded one at a time: many at once would not fit into memory."""
_large = Lock()
Image.init()  # registers all formats: `Image.open` fails on one that is not registered


class UnreadableError(Exception):
    """An image that cannot be read; the message says why, not which."""


def read_image(image: Path | bytes) -> Image.Image:
    """Decode an image, in RGB of 8 bits; of 16-bit greys the higher 8, as Pillow does with 16-bit colours.

    Args:
        image: a file, or its content.

    Raises:
        UnreadableError: it is missing, no image of `FORMATS`, damaged, too large, or of 32 bits per pixel and channel.
    """
    with _reasons(), _opened(image) as picture, _large if _pixels(picture) >= LARGE else nullcontext():
        if picture.mode.startswith("I"):
            return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
        return picture.convert("RGB")


def check_image(image: Path | bytes) -> None:
    """Read the header of an image, without decoding it.

    Args:
        image: a file, or its content.

    Raises:
        UnreadableError: it could not be decoded either, as far as its header tells.
    """
    with _reasons(), _opened(image):
        pass


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except (UnreadableError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError("cannot identify an image in it") from error
    except Exception as error:  # what Pillow raises for a damaged file depends on where the damage is
        said = str(error) or type(error).__name__
        raise UnreadableError(said if said.isprintable() else shown(said)) from error


@contextmanager
def _opened(image: Path | bytes) -> Iterator[Image.Image]:
    """Open an image and read its header."""
    with Image.open(image if isinstance(image, Path) else BytesIO(image), formats=FORMATS) as picture:
        if _pixels(picture) > LARGEST:
            raise UnreadableError(
                f"of {picture.width:,} x {picture.height:,} pixels; at most {LARGEST:,} are allowed; shrink it"
            )
        if picture.mode == "F" or (picture.mode == "I" and picture.format not in SIXTEEN_AS_32):
            raise UnreadableError("of 32 bits per pixel, whose range is unknown; convert it to 8 or 16 bits")
        yield picture


def _pixels(picture: Image.Image) -> int:
    return picture.width * picture.height
