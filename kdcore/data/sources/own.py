"""Read a data set of the user's own: folders of images, or parquet files of encoded images and labels.

`augmentation` says how training sees the images, and with it where they are:

- pad_crop, used for CIFAR: resized to the image size, given a black border of an eighth of it, cropped at random. In
  memory.
- resize_crop, used for CUB-200: resized to 8/7 of the image size, cropped at random, the middle in the test. In memory.
- random_resized_crop, used for ImageNet: a random part, resized. Decoded when seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.sources import contents, imagenet, parquet, pixels
from kdcore.data.sources.columns import Columns
from kdcore.data.sources.divided import divided
from kdcore.data.sources.folders import (
    Files,
    Images,
    check_images,
    check_number,
    decode_images,
    index_images,
    labels_of,
)
from kdcore.data.sources.splits import TEST, TRAIN, VALIDATION
from kdcore.matrix.data_section import IMAGE_FOLDER
from kdcore.system.errors import UserError

SMALL = 64
"""Largest image size that gets CIFAR's augmentation and stem if params.yaml names none."""
SAMPLE = 3
"""How many training images of each class are decoded beforehand, where all others are decoded as they are needed."""
SAMPLE_SIDE = 64
REMEDY = (
    "if the files hold 16-bit greys with small values, set data.scale_16bit; if they are drawings on transparency, set "
    "data.background; else look at the files"
)
"""What to do about training images that carry nothing."""


@dataclass(frozen=True)
class Listed:
    """The images of a split, not yet decoded, and their classes."""

    images: Images
    labels: np.ndarray
    """(N,) int64."""
    name: Callable[[int], str] | None
    """Names the image at a position, for messages; None names its file."""
    encoded: Callable[[], Encoded]
    """Make a split that is decoded later."""

    def decode(self, side: int, reader: pixels.Reader) -> Split:
        """Make a split that is decoded now; `decode_images` explains arguments and errors."""
        return Split(decode_images(self.images, side, self.name, read=reader), self.labels)


def fetch(
    *,
    name: str,
    source: str,
    image_size: int,
    augmentation: str | None,
    flip: bool,
    stem: str | None,
    test_share: float | None,
    std: list[float] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    scale_16bit: int | list[int] | str | None = None,
    background: list[int] | str | None = None,
) -> Dataset:
    """Read a data set of the user's own; `kdcore.matrix.data_section.Own` explains the arguments.

    Mean and standard deviation are computed from the training images; streamed images get those of ImageNet.

    Raises:
        UserError: the source does not hold what it should; the message says what was expected.
    """
    augmentation = augmentation or ("pad_crop" if image_size <= SMALL else "resize_crop")
    side = {"pad_crop": image_size, "resize_crop": round(image_size * 8 / 7), "random_resized_crop": None}[augmentation]
    root = Path(source.partition(":")[2])
    where = f"data.source {source}"
    if not root.is_dir():
        raise UserError(f"{where}: {root} {'is not a folder' if root.exists() else 'does not exist'}; name a folder")
    if source.startswith(IMAGE_FOLDER):
        classes, listed = _in_folders(root, test_share)
    elif test_share is not None:
        raise UserError("data.test_share: is for folders of images; parquet files are split by their names")
    else:
        classes, listed = _in_parquet(root, Columns(image_column, label_column))
    check_number(classes, f"data.source {root}")
    contents.say_names(classes, where)
    train: Split | Encoded
    test: Split | Encoded
    mean, deviation = imagenet.MEAN, imagenet.STD
    if side is None:
        train, test = _streamed(listed, classes, where)
    else:
        train, test = _decoded(listed, side, where, scale_16bit, background)
        for split, which in ((train, "training"), (test, "test")):
            contents.say_dark(split.images, split.labels, classes, where, which)
        mean, deviation = _statistics(train, where, needed=std is None)
    return Dataset(
        name=name,
        classes=classes,
        train=train,
        test=test,
        mean=mean,
        std=deviation,
        image_size=image_size,
        flip=flip,
        padding=image_size // 8 if augmentation == "pad_crop" else 0,
        stem=stem or ("small" if image_size <= SMALL else "large"),
    )


def _in_folders(root: Path, test_share: float | None) -> tuple[list[str], tuple[Listed, Listed]]:
    """List the images of folders, a folder per class."""
    train, test = divided(root, test_share)
    contents.check_files_apart(train, test)
    contents.check_no_masks({name: [*train[name], *test[name]] for name in train}, f"data.source {root}")

    def listed(files: Files) -> Listed:
        paths = [path for paths_of_class in files.values() for path in paths_of_class]

        def encoded() -> Encoded:
            check_images(paths)
            return index_images(files, root)

        return Listed(paths, labels_of(files), None, encoded)

    return list(train), (listed(train), listed(test))


def _in_parquet(root: Path, columns: Columns) -> tuple[list[str], tuple[Listed, Listed]]:
    """List the images of parquet files."""
    train, test = parquet.read(root, TRAIN, columns=columns), parquet.read(root, TEST, VALIDATION, columns=columns)
    parquet.check_together(root, train, test)
    classes, labels = parquet.common_classes(train, test)
    first, second = (
        Listed(rows.images, of_rows, rows.name, partial(rows.encoded, of_rows))
        for rows, of_rows in zip((train, test), labels, strict=True)
    )
    return classes, (first, second)


def _decoded(
    listed: tuple[Listed, Listed],
    side: int,
    where: str,
    scale_16bit: int | list[int] | str | None,
    background: list[int] | str | None,
) -> tuple[Split, Split]:
    """Decode all images now, with the same choices for training and test."""
    train, test = listed
    span = None
    if scale_16bit == "largest":
        before = pixels.reader(None, background)
        decode_images(train.images, 1, train.name, read=before)
        span = (0, pixels.largest(before.looks, where))
    elif isinstance(scale_16bit, list):
        span = (scale_16bit[0], scale_16bit[1])
    elif isinstance(scale_16bit, int):
        span = (0, scale_16bit)
    reader, of_test = (pixels.reader(span, background) for _ in range(2))
    splits = train.decode(side, reader), test.decode(side, of_test)
    pixels.report(reader, of_test, where)
    contents.check_decoded(*splits, where, REMEDY)
    return splits


def _statistics(train: Split, where: str, *, needed: bool) -> tuple[contents.Rgb, contents.Rgb]:
    """Compute mean and deviation of the training images, and refuse a deviation that is needed and almost 0."""
    mean, deviation = contents.statistics(train.images)
    if needed:
        contents.check_deviation(deviation, where)
    return mean, deviation


def _streamed(listed: tuple[Listed, Listed], classes: list[str], where: str) -> tuple[Encoded, Encoded]:
    """Check images that are decoded as they are needed: the beginnings of all, and a few of each class as a whole."""
    train, test = listed
    splits = train.encoded(), test.encoded()
    (reader, some), (of_test, some_of_test) = _sample(train), _sample(test)
    sample = f"{where}, of {len(some.labels)} training and {len(some_of_test.labels)} test images looked at"
    pixels.report(reader, of_test, sample)
    for split, which in ((some, "training"), (some_of_test, "test")):
        contents.check_split(split.images, sample, REMEDY, which)
        contents.say_dark(split.images, split.labels, classes, sample, which)
    keys = contents.keys_of(train.images, test.images)
    contents.check_repeated(*keys, train.labels, test.labels, where)
    return splits


def _sample(listed: Listed) -> tuple[pixels.Reader, Split]:
    """Decode a few images of each class, and return them with what decoded them, which tells what it noticed."""
    chosen = [position for label in np.unique(listed.labels) for position in _some(listed.labels == label)]
    reader, name = pixels.Reader(), listed.name
    images = decode_images(
        [listed.images[position] for position in chosen],
        SAMPLE_SIDE,
        (lambda position: name(chosen[position])) if name else None,
        read=reader,
    )
    return reader, Split(images, listed.labels[chosen])


def _some(members: np.ndarray) -> list[int]:
    """Choose up to `SAMPLE` positions, spread over those that are marked."""
    positions = np.flatnonzero(members)
    spread = np.unique(np.linspace(0, len(positions) - 1, SAMPLE).astype(int))
    return [int(position) for position in positions[spread]]
