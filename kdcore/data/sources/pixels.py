"""Decode images whose files leave a choice, 16-bit greys and transparency, and notice what would be lost in silence.

`kdcore.data.images.read_image` decodes all others, and these where nothing is chosen.
"""

import sys
import warnings
from dataclasses import dataclass, field
from enum import IntEnum
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kdcore.data.images import FORMATS, UnreadableError, read_image
from kdcore.system.errors import UserError, shown

SMALL = 1 << 14
"""Largest 16-bit value of an image that uses a small part of the range, a quarter of it."""


class TiffTags(IntEnum):
    """Numbers of tags in TIFF, and their values."""

    PHOTOMETRIC = 262
    WHITE_IS_0 = 0
    SAMPLE_FORMAT = 339
    SIGNED = 2


UPRIGHT = 1
"""The orientation in EXIF of an image that need not be turned."""
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # says nothing of the image itself
warnings.filterwarnings("ignore", message="Palette images with Transparency")  # `report` says it, with counts
REMARKS = {
    "is_transparent": "are partly transparent; transparency is dropped, and the colours below it show; data.background "
    "puts them on a colour instead",
    "has_frames": "hold several images, of which the first counts",
    "is_turned": "should be turned, as their EXIF says, which is ignored, as torchvision's loader does; turn them "
    "upright first if you want them so",
}
"""Field of `Look` -> what to say of such images."""


class BlankError(UnreadableError):
    """An image that would carry nothing; the message says what to do."""


@dataclass(frozen=True)
class Look:
    """What a file holds beyond an image in RGB with 8 bits."""

    largest: int | None = None
    """The largest value of a 16-bit image; None with 8 bits."""
    is_transparent: bool = False
    """Whether a pixel is not opaque."""
    has_frames: bool = False
    """Whether more than one image is in the file, of which the first counts."""
    is_turned: bool = False
    """Whether EXIF says that the image should be turned or mirrored."""

    @property
    def has_16_bits(self) -> bool:
        """Whether the image has 16 bits per pixel and channel."""
        return self.largest is not None


@dataclass
class Reader:
    """Decodes images in RGB with 8 bits, and keeps what there is to say of them."""

    white: int | None = None
    """The value of 16-bit greys that becomes white; None takes their higher 8 bits."""
    background: tuple[int, int, int] | None = None
    """The colour below transparent images; None drops transparency."""
    looks: list[Look] = field(default_factory=list)

    def __call__(self, image: Path | bytes) -> Image.Image:
        """Decode an image.

        Raises:
            UnreadableError: as `read_image` does; a `BlankError` where all that is drawn lies in the transparency,
                which is dropped, or where the range of 16-bit colours should be changed.
        """
        decoded = read_image(image)
        try:
            with Image.open(image if isinstance(image, Path) else BytesIO(image), formats=FORMATS) as picture:
                look, decoded = self._look(picture, decoded)
        except (UnreadableError, MemoryError):
            raise
        except Exception as error:  # as in `read_image`, depends on what the file holds
            raise UnreadableError(f"{type(error).__name__}: {shown(str(error))}") from error
        self.looks.append(look)
        return decoded

    def _look(self, picture: Image.Image, decoded: Image.Image) -> tuple[Look, Image.Image]:
        largest, transparent = None, False
        _check_kind(picture)
        if _is_16bit(picture):
            largest, decoded = self._scaled(picture, decoded)
        if picture.has_transparency_data and not picture.mode.startswith("I"):
            transparent, decoded = self._on_background(picture.convert("RGBA"), decoded)
        frames = bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"  # phones' photographs
        return Look(largest, transparent, frames, _is_turned(picture)), decoded

    def _scaled(self, picture: Image.Image, decoded: Image.Image) -> tuple[int, Image.Image]:
        if not picture.mode.startswith("I"):  # Pillow reads 16-bit colours with 8 bits
            if self.white is not None:
                raise BlankError("has 16-bit colours, which data.scale_16bit cannot scale; convert it to 8 bits")
            return int(np.asarray(decoded).max()) << 8 | 255, decoded
        values = np.asarray(picture).astype(np.int64)
        if self.white is None:
            return int(values.max()), decoded
        scaled = np.minimum((values * 255 + self.white // 2) // self.white, 255)
        return int(values.max()), Image.fromarray(scaled.astype(np.uint8)).convert("RGB")

    def _on_background(self, picture: Image.Image, decoded: Image.Image) -> tuple[bool, Image.Image]:
        opacity = np.asarray(picture.getchannel("A"))
        if opacity.min() == 255:
            return False, decoded
        if self.background is None:
            if opacity.min() != opacity.max() and is_one_colour(np.asarray(decoded)):
                raise BlankError(
                    "is of one colour without its transparency, which is dropped; set data.background, for example "
                    "to white, or put it on a background yourself"
                )
            return True, decoded
        below = Image.new("RGBA", picture.size, (*self.background, 255))
        return True, Image.alpha_composite(below, picture).convert("RGB")


def reader(white: int | None, background: list[int] | str | None) -> Reader:
    """Make a reader from the values of params.yaml."""
    if isinstance(background, str):
        return Reader(white, COLOURS[background])
    return Reader(white, (background[0], background[1], background[2]) if background else None)


def is_one_colour(image: np.ndarray) -> bool:
    """Whether all pixels of an image (H, W, 3) are the same."""
    return not (image != image[:1, :1]).any()


def largest(looks: list[Look], where: str) -> int:
    """Return the largest value of the 16-bit images.

    Raises:
        UserError: there are none, or they hold nothing but zeros.
    """
    found = max((look.largest for look in looks if look.largest is not None), default=0)
    if not found:
        raise UserError(
            f"{where}: data.scale_16bit is set, but no training image has 16 bits and a value above 0; remove it"
        )
    return found


def report(looks: list[Look], where: str, white: int | None, *, background: bool) -> None:
    """Say on stderr how many training images are not what a user may think, and what to set.

    Args:
        looks: what a reader noticed, of training images alone.
        where: names the data set.
        white: the 16-bit value that became white; None where none was chosen.
        background: whether transparent images lie on a background.

    Raises:
        UserError: a value for white was chosen, but no image has 16 bits.
    """
    lines = _of_16_bits([look.largest for look in looks if look.largest is not None], where, white)
    for name, text in REMARKS.items():
        count = sum(getattr(look, name) for look in looks)
        if count and not (background and name == "is_transparent"):
            lines.append(f"{count} of {len(looks)} training images {text}")
    for line in lines:
        print(f"{where}: {line}", file=sys.stderr)


def report_test(train: list[Look], test: list[Look], where: str, *, background: bool) -> None:
    """Say on stderr how test images differ from the training images in what their files hold.

    Args:
        train: what a reader noticed of the training images.
        test: what one noticed of the test images.
        where: names the data set.
        background: whether transparent images lie on a background.
    """
    remarks = {"has_16_bits": "have 16 bits, of which the higher 8 count; see data.scale_16bit", **REMARKS}
    for name, text in remarks.items():
        count = sum(getattr(look, name) for look in test)
        if count and not any(getattr(look, name) for look in train) and not (background and name == "is_transparent"):
            print(f"{where}: {count} of {len(test)} test images, but no training image, {text}", file=sys.stderr)


def _of_16_bits(largest_values: list[int], where: str, white: int | None) -> list[str]:
    """Say how the values of 16-bit images fit the value that is white."""
    count, small = len(largest_values), [value for value in largest_values if value < SMALL]
    if white is not None:
        if not count:
            raise UserError(f"{where}: data.scale_16bit is set, but no training image has 16 bits; remove it")
        above = sum(value > white for value in largest_values)
        which = f"{above} of {count} 16-bit training images"
        return [f"{which} have values above {white}, which become white"] if above else []
    if not small or 10 * len(small) < count:
        return []
    return [
        f"{len(small)} of {count} 16-bit training images use a small part of their range, values up to {max(small)} of "
        f"65535, so they become dark, 0 to {max(small) >> 8} of 255; set data.scale_16bit: largest, or the value that "
        "is white, such as 4095; colours must be converted to 8 bits instead"
    ]


def _check_kind(picture: Image.Image) -> None:
    """Refuse greys in TIFF that Pillow reads as other values than those that are meant.

    Raises:
        BlankError: 16-bit greys of which 0 is white, which it does not invert; or 8-bit ones with a sign, which wrap.
    """
    tags = getattr(picture, "tag_v2", {})
    if _is_16bit(picture) and tags.get(TiffTags.PHOTOMETRIC) == TiffTags.WHITE_IS_0:
        raise BlankError("has 16-bit greys of which 0 is white, and would be read inverted; convert it to 0 for black")
    if TiffTags.SIGNED in tags.get(TiffTags.SAMPLE_FORMAT, ()):
        raise BlankError("has values with a sign, and would be read with others; convert it to values from 0 upwards")


def _is_turned(picture: Image.Image) -> bool:
    """Whether EXIF says that an image should be turned; not where its EXIF is damaged, which nobody needs."""
    try:
        return bool(picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT)
    except Exception:  # what Pillow raises depends on the damage
        return False


def _is_16bit(picture: Image.Image) -> bool:
    return picture.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", []))
