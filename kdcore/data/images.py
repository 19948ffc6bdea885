"""One encoded image: how it is opened, and why it may not be.

As torchvision's loader, which published code uses: an orientation in EXIF is ignored, transparency dropped.
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
"""What is opened, whatever a file's name says: for others Pillow starts programs, as Ghostscript for PostScript."""
SIXTEEN_AS_32 = ("PNG", "PPM")
"""Formats whose 16-bit greys some versions of Pillow open with 32."""
LARGEST = 89_478_485
"""Pixels; what Pillow warns of. Decoding takes 8 to 16 bytes of each, however few the file has."""
LARGE = 16_000_000
"""Pixels from which images are decoded one at a time, for many at once would not fit into memory."""
_large = Lock()
Image.init()  # makes all formats known: `Image.open` fails of one that is not


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
    """Look at the beginning of an image, without decoding it. Argument and errors as of `read`."""
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
    except Exception as error:  # of a damaged file, Pillow raises whatever its reading of it runs into
        said = str(error) or type(error).__name__
        raise UnreadableError(said if said.isprintable() else shown(said)) from error


@contextmanager
def _opened(image: Path | bytes) -> Iterator[Image.Image]:
    """An image of which the beginning has been read."""
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
