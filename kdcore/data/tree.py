"""Images in folders, one folder per class."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from kdcore.data.store import Encoded, Split
from kdcore.errors import UserError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST = 16 * 2**30
"""Bytes of images that may be kept in memory."""

Files = dict[str, list[Path]]
"""Class -> its files, both in alphabetical order."""


def classes_below(folder: Path) -> Files:
    """The images below each of a folder's folders, however deep.

    Raises:
        UserError: no folders, or one without images.
    """
    found = {
        child.name: sorted(path for path in child.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not found:
        raise UserError(f"{folder}: holds no folders; expected one folder of images per class")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise UserError(f"{folder / empty[0]}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def check_same_classes(train: Iterable[str], test: Iterable[str], where: Path) -> None:
    """Refuse splits of other classes.

    Raises:
        UserError: names classes of one split alone.
    """
    alone = sorted(set(train) ^ set(test))
    if alone:
        raise UserError(f"{where}: classes must be the same in training and test; in one of them alone: {alone[:5]}")


def index(files: Files, root: Path) -> Encoded:
    """A split whose images stay where they are."""
    paths = [str(path.relative_to(root)) for of_class in files.values() for path in of_class]
    return Encoded(pa.table({"path": paths, "label": _labels(files)}), root)


def read(files: Files, side: int, *, resize: bool = True) -> Split:
    """A split whose images are decoded now. Arguments and errors as of `decode`."""
    paths = [path for of_class in files.values() for path in of_class]
    return Split(decode(paths, side, resize=resize), _labels(files))


def decode(
    images: Sequence[Path | bytes], side: int, name: Callable[[int], str] | None = None, *, resize: bool = True
) -> np.ndarray:
    """Decode encoded images.

    Args:
        images: files, or their content.
        side: P, in pixels.
        name: of the image at a position, for messages; when absent, its file.
        resize: with a bilinear filter, images of another size, instead of refusing them.

    Returns:
        (N, P, P, 3) uint8.

    Raises:
        UserError: an image cannot be decoded or is of another size, or all together are too large for memory.
    """
    if len(images) * side * side * 3 > LARGEST:
        raise UserError(
            f"{len(images)} images of {side} x {side} pixels are too many to keep in memory; "
            "set data.augmentation: random_resized_crop, with which they are decoded as they are needed"
        )
    decoded = np.empty((len(images), side, side, 3), np.uint8)

    def fill(position: int) -> None:
        image = images[position]
        where = name(position) if name else str(image)
        try:
            picture = Image.open(image if isinstance(image, Path) else BytesIO(image)).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{where}: cannot be decoded ({error}); replace or remove it") from error
        if picture.size != (side, side):
            if not resize:
                raise UserError(f"{where}: is of {picture.size} pixels, not {(side, side)}")
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
        decoded[position] = np.asarray(picture)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(len(images))):
            pass
    return decoded


def _labels(files: Files) -> np.ndarray:
    return np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
