"""Decode images whose files leave a choice, 16-bit greys and transparency, and notice what would be lost in silence.

`kdcore.data.images.read_image` decodes all others, and these where nothing is chosen.
"""

import sys
import warnings
from dataclasses import dataclass, field
from enum import IntEnum
from io import SEEK_END, BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kdcore.data.images import FORMATS, UnreadableError, read_image
from kdcore.data.sources import levels
from kdcore.data.sources.levels import SMALL
from kdcore.system.errors import UserError, shown


class TiffTags(IntEnum):
    """Numbers of tags in TIFF, and their values."""

    BITS = 258
    PLANES = 284
    ONE_BY_ONE = 2
    PHOTOMETRIC = 262
    WHITE_IS_0 = 0
    EXTRA_SAMPLES = 338
    UNSPECIFIED = 0
    SAMPLE_FORMAT = 339
    SIGNED = 2


CLEAR = "transparency"
"""Pillow's name for the value that is transparent."""
ENLARGED = {"L;2": 85, "L;4": 17}
"""Layout of greys of 2 and 4 bits in PNG -> by what Pillow multiplies them."""
JPEG, END_OF_JPEG = b"\xff\xd8\xff", b"\xff\xd9"
"""The first bytes and the last ones of a JPEG; some programs write zeros, or notes, behind it."""
ZEROS = 64
"""So many zeros at the end of a file are looked into."""
UPRIGHT = 1
"""The orientation in EXIF of an image that need not be turned."""
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}


warnings.filterwarnings("ignore", message="Corrupt EXIF data")  # says nothing of the image itself
warnings.filterwarnings("ignore", message="Palette images with Transparency")  # `report` says it, with counts
REMARKS = {
    "is_transparent": "are partly transparent; transparency is dropped, and the colours below it show; data.background "
    "puts them on a colour instead",
    "has_frames": "hold several images, of which the first counts",
    "has_more": "have channels beyond red, green and blue, which are left out",
    "is_turned": "should be turned, as their EXIF says, which is ignored, as torchvision's loader does; turn them "
    "upright first if you want them so",
}
"""Field of `Look` -> what to say of such images."""


DARK = f"have no value above {255 // SMALL} of 255; are they masks, or values from 0 to 1 that were not scaled to 255?"
"""What to say of images of 8 bits that use a small part of the range, if they are many."""


class BlankError(UnreadableError):
    """An image that would carry nothing; the message says what to do."""


@dataclass(frozen=True)
class Look:
    """What a file holds beyond an image in RGB with 8 bits."""

    largest: int | None = None
    """The largest value of a 16-bit image; None with 8 bits."""
    is_below: bool = False
    """Whether a 16-bit image has values below the one that becomes black."""
    is_dark: bool = False
    """Whether it has 8 bits, and uses a small part of their range."""
    is_transparent: bool = False
    """Whether a pixel is not opaque."""
    has_frames: bool = False
    """Whether more than one image is in the file, of which the first counts."""
    has_more: bool = False
    """Whether it has channels that are neither colours nor transparency, which are left out."""
    is_turned: bool = False
    """Whether EXIF says that the image should be turned or mirrored."""

    @property
    def has_16_bits(self) -> bool:
        """Whether the image has 16 bits per pixel and channel."""
        return self.largest is not None


@dataclass
class Reader:
    """Decodes images in RGB with 8 bits, and keeps what there is to say of them."""

    span: levels.Span | None = None
    """The values of 16-bit greys that become black and white; None takes their higher 8 bits."""
    background: tuple[int, int, int] | None = None
    """The colour below transparent images; None drops transparency."""
    looks: list[Look] = field(default_factory=list)
    values: levels.Values = field(default_factory=levels.Values)
    """The values of all 16-bit images."""

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
        largest, is_below, transparent = None, False, False
        _check_kind(picture)
        layout = next((str(tile[3]) for tile in getattr(picture, "tile", [])), "")  # forgotten once it is decoded
        if _is_16bit(picture):
            largest, is_below, decoded = self._scaled(picture, decoded)
        if picture.has_transparency_data:
            transparent, decoded = self._on_background(_with_opacity(picture, layout, decoded), decoded)
            if transparent and self.background and largest is not None and isinstance(picture.info.get(CLEAR), tuple):
                raise BlankError("has 16-bit colours of which one is transparent; convert it to 8 bits")
        frames = bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"  # phones' photographs
        has_more = TiffTags.UNSPECIFIED in getattr(picture, "tag_v2", {}).get(TiffTags.EXTRA_SAMPLES, ())
        values = np.asarray(decoded)
        dark = largest is None and SMALL * int(values.max()) <= 255 and not is_one_colour(values)
        return Look(largest, is_below, dark, transparent, frames, has_more, _is_turned(picture)), decoded

    def _scaled(self, picture: Image.Image, decoded: Image.Image) -> tuple[int, bool, Image.Image]:
        """Count the values of a 16-bit image, and return the largest, whether some are below black, and the image."""
        if not picture.mode.startswith("I"):  # Pillow reads 16-bit colours with 8 bits
            if self.span is not None:
                raise BlankError("has 16-bit colours, which data.scale_16bit cannot scale; convert it to 8 bits")
            colours = np.asarray(decoded).astype(np.int64)
            self.values.add(colours << 8 | colours)
            return int(colours.max()) << 8 | 255, False, decoded
        values = np.asarray(picture).astype(np.int64)
        self.values.add(values)
        if self.span is None:
            return int(values.max()), False, decoded
        scaled = Image.fromarray(levels.scaled(values, self.span).astype(np.uint8)).convert("RGB")
        return int(values.max()), bool(values.min() < self.span[0]), scaled

    def _on_background(self, above: Image.Image, decoded: Image.Image) -> tuple[bool, Image.Image]:
        opacity = np.asarray(above.getchannel("A"))
        if opacity.min() == 255:
            return False, decoded
        if self.background is None:
            if opacity.min() != opacity.max() and is_one_colour(np.asarray(decoded)):
                raise BlankError(
                    "is of one colour without its transparency, which is dropped; set data.background, for example "
                    "to white, or put it on a background yourself"
                )
            return True, decoded
        below = Image.new("RGBA", decoded.size, (*self.background, 255))
        return True, Image.alpha_composite(below, above).convert("RGB")


def check_end(image: Path | bytes) -> None:
    """Refuse a JPEG without an end, whose rest is zeros: it can be decoded, and what is missing would become grey.

    Raises:
        BlankError: says so.
    """
    with image.open("rb") if isinstance(image, Path) else BytesIO(image) as file:
        file.seek(-min(ZEROS, file.seek(0, SEEK_END)), SEEK_END)
        if file.read() != bytes(ZEROS):
            return
        file.seek(0)
        content = file.read()
    if content.startswith(JPEG) and END_OF_JPEG not in content:
        raise BlankError("is a JPEG without an end that has zeros instead, as of a broken download; get it anew")


def reader(span: levels.Span | None, background: list[int] | str | None) -> Reader:
    """Make a reader from the values of params.yaml."""
    if isinstance(background, str):
        return Reader(span, COLOURS[background])
    return Reader(span, (background[0], background[1], background[2]) if background else None)


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


def report(train: Reader, test: Reader, where: str) -> None:
    """Say on stderr how many images of each split are not what a user may think, and what to set.

    Args:
        train: what decoded the training images.
        test: what decoded the test images, with the same choices.
        where: names the data set.

    Raises:
        UserError: values for black and white were chosen, but no training image has 16 bits.
    """
    span = train.span
    if span is not None and not any(look.has_16_bits for look in train.looks):
        raise UserError(f"{where}: data.scale_16bit is set, but no training image has 16 bits; remove it")
    some = "have 16 bits" + (", of which the higher 8 count; see data.scale_16bit" if span is None else "")
    for which, of_split, other, of_other in (("training", train, "test", test), ("test", test, "training", train)):
        looks = of_split.looks
        dark = sum(look.is_dark for look in looks)
        lines = [f"{dark} of {len(looks)} {which} images {DARK}"] if 10 * dark >= len(looks) and dark else []
        deep = [(look.largest, look.is_below) for look in looks if look.largest is not None]
        lines += levels.remarks(deep, of_split.values, which, span, None if of_split is train else train.values)
        for name, text in {"has_16_bits": some, **REMARKS}.items():
            count, in_other = (sum(getattr(look, name) for look in those) for those in (looks, of_other.looks))
            is_plain = name == "has_16_bits" and in_other
            if count and not is_plain and not (train.background and name == "is_transparent"):
                lines.append(
                    f"{count} of {len(looks)} {which} images{'' if in_other else f', but no {other} image,'} {text}"
                )
        for line in lines:
            print(f"{where}: {line}", file=sys.stderr)


def _with_opacity(picture: Image.Image, layout: str, decoded: Image.Image) -> Image.Image:
    """Return a picture with its opacity, in RGBA of 8 bits.

    PNG may name a value that is transparent, as the file has it, while Pillow compares it with values of 8 bits.

    Args:
        picture: one that may be transparent.
        layout: how its file has the pixels.
        decoded: the same in RGB.
    """
    clear, is_clear = picture.info.get(CLEAR), None
    if picture.mode.startswith("I"):
        is_clear = np.asarray(picture) == clear
    elif layout in ENLARGED and isinstance(clear, int):
        is_clear = np.asarray(picture) == clear * ENLARGED[layout]
    elif ";16" in layout and isinstance(clear, tuple):  # colours, of which Pillow keeps the higher 8 bits
        is_clear = (np.asarray(decoded) == np.array(clear) >> 8).all(axis=2)
    if is_clear is None:
        return picture.convert("RGBA")
    above = decoded.convert("RGBA")
    above.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
    return above


def _check_kind(picture: Image.Image) -> None:
    """Refuse images in TIFF that Pillow reads as other values than those that are meant.

    Raises:
        BlankError: 16-bit greys of which 0 is white, which it does not invert; or 8-bit ones with a sign, which wrap.
    """
    tags = getattr(picture, "tag_v2", {})
    if tags.get(TiffTags.PLANES) == TiffTags.ONE_BY_ONE and (
        len(tags.get(TiffTags.BITS, ())) != len("RGB") or max(tags[TiffTags.BITS]) > 8
    ):
        raise BlankError(
            "has its channels one after the other, and more than 8 bits or three channels, which would be read "
            "wrongly; convert it to RGB with 8 bits"
        )
    if _is_16bit(picture) and tags.get(TiffTags.PHOTOMETRIC) == TiffTags.WHITE_IS_0:
        raise BlankError("has 16-bit greys of which 0 is white, and would be read inverted; convert it to 0 for black")
    if TiffTags.SIGNED in tags.get(TiffTags.SAMPLE_FORMAT, ()):
        raise BlankError("has values with a sign, and would be read with others; convert it to values from 0 upwards")


def _is_turned(picture: Image.Image) -> bool:
    """Whether EXIF says that an image should be turned, and Pillow does not; not where its EXIF is damaged."""
    if picture.format == "TIFF":  # whose tags are not damaged, or it is not read, and Pillow turns it
        return False
    try:
        return bool(picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT) != UPRIGHT)
    except Exception:  # what Pillow raises depends on the damage
        return False


def _is_16bit(picture: Image.Image) -> bool:
    return picture.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", []))
