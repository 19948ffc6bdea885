"""Read a data set of the user's own: folders of images, or parquet files of encoded images and labels.

`augmentation` says how training sees the images, and with it where they are:

- pad_crop, used for CIFAR: resized to the image size, given a black border of an eighth of it, cropped at random. In
  memory.
- resize_crop, used for CUB-200: resized to 8/7 of the image size, cropped at random, the middle in the test. In memory.
- random_resized_crop, used for ImageNet: a random part, resized. Decoded when seen.
"""

import math
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Dataset, Encoded, Split
from kdcore.data.sources import imagenet, parquet
from kdcore.data.sources.folders import (
    Files,
    check_images,
    check_number,
    check_same_classes,
    classes_below,
    index_images,
    read_images,
    visible_folders,
)
from kdcore.matrix.data_section import IMAGE_FOLDER
from kdcore.system.errors import UserError

SMALL = 64
"""Largest image size that gets CIFAR's augmentation and stem if params.yaml names none."""
TESTS = ("test", "val", "validation", "valid")


def fetch(
    *,
    name: str,
    source: str,
    image_size: int,
    augmentation: str | None,
    flip: bool,
    stem: str | None,
    test_share: float | None,
) -> Dataset:
    """Read a data set of the user's own; `kdcore.matrix.data_section.Own` explains the arguments.

    Mean and standard deviation are computed from the training images; streamed images get those of ImageNet.

    Raises:
        UserError: the source does not hold what it should; the message says what was expected.
    """
    augmentation = augmentation or ("pad_crop" if image_size <= SMALL else "resize_crop")
    side = {"pad_crop": image_size, "resize_crop": round(image_size * 8 / 7), "random_resized_crop": None}[augmentation]
    read = _from_folders if source.startswith(IMAGE_FOLDER) else _from_parquet
    root = Path(source.partition(":")[2])
    if not root.is_dir():
        raise UserError(
            f"data.source {source}: {root} {'is not a folder' if root.exists() else 'does not exist'}; name a folder"
        )
    classes, train, test = read(root, side, test_share)
    mean, std = _statistics(train) if isinstance(train, Split) else (imagenet.MEAN, imagenet.STD)
    return Dataset(
        name=name,
        classes=classes,
        train=train,
        test=test,
        mean=mean,
        std=std,
        image_size=image_size,
        flip=flip,
        padding=image_size // 8 if augmentation == "pad_crop" else 0,
        stem=stem or ("small" if image_size <= SMALL else "large"),
    )


def _from_folders(
    root: Path, side: int | None, test_share: float | None
) -> tuple[list[str], Split | Encoded, Split | Encoded]:
    train, test = _split(root, test_share)
    check_number(train, f"data.source {root}")
    if side is None:
        for files in (train, test):
            check_images([path for paths in files.values() for path in paths])
        return list(train), index_images(train, root), index_images(test, root)
    return list(train), read_images(train, side), read_images(test, side)


def _split(root: Path, test_share: float | None) -> tuple[Files, Files]:
    """List the images of training and test, as the user split them or divided here."""
    folders = visible_folders(root)
    train = _named(root, folders, "train")
    test = next((folder for name in TESTS if (folder := _named(root, folders, name))), None)
    if train and test:
        if test_share is not None:
            raise UserError(f"data.test_share: {root} is split already, into {train.name} and {test.name}; remove it")
        train_files, test_files = classes_below(train), classes_below(test)
        check_same_classes(train_files, test_files, root)
        return train_files, test_files
    if test_share is None:
        raise UserError(
            f"data.source: {root} has no folders train and {' or '.join(TESTS)}; add them, or set data.test_share, "
            "for example 0.2, to keep that share of each class for the test"
        )
    if folders and all(folder.name.lower() in TESTS for folder in folders):
        raise UserError(
            f"data.source: {root} holds {', '.join(folder.name for folder in folders)}, but no folder train; add it "
            "and remove data.test_share, or name the folder that holds the classes"
        )
    if train and folders == [train]:
        return _divide(classes_below(train), test_share, train)
    if train and visible_folders(train):
        raise UserError(
            f"data.source: {root} holds {train.name}, with folders of its own, beside "
            f"{', '.join(folder.name for folder in folders if folder != train)}; is it a split or a class? Name the "
            "folder that holds the classes, or move the others away"
        )
    return _divide(classes_below(root), test_share, root)


def _named(root: Path, folders: list[Path], name: str) -> Path | None:
    """Return the folder of a split, in capitals or not, or None."""
    same = [folder for folder in folders if folder.name.lower() == name]
    if len(same) > 1:
        raise UserError(f"data.source: {root} holds {' and '.join(folder.name for folder in same)}; keep one of them")
    return same[0] if same else None


def _from_parquet(
    root: Path, side: int | None, test_share: float | None
) -> tuple[list[str], Split | Encoded, Split | Encoded]:
    if test_share is not None:
        raise UserError("data.test_share: is for folders of images; parquet files are split by their names")
    train = parquet.read(root, ("train",))
    test = parquet.read(root, TESTS)
    classes, labels = parquet.common_classes(train, test)
    check_number(classes, f"data.source {root}")
    if side is None:
        return classes, train.encoded(labels[0]), test.encoded(labels[1])
    return classes, train.decode(labels[0], side), test.decode(labels[1], side)


def _divide(files: Files, share: float, root: Path) -> tuple[Files, Files]:
    """Draw a share of every class for the test; the draw is the same each time."""
    train: Files = {}
    test: Files = {}
    for label, (name, paths) in enumerate(files.items()):
        kept = math.ceil(share * len(paths))
        if kept == len(paths):
            raise UserError(
                f"{root / name}: of {len(paths)} images {kept} would be kept for the test, none left; lower "
                "data.test_share, or add images"
            )
        chosen = set(np.random.Generator(np.random.PCG64([0, label])).permutation(len(paths))[:kept].tolist())
        train[name] = [path for i, path in enumerate(paths) if i not in chosen]
        test[name] = [path for i, path in enumerate(paths) if i in chosen]
    return train, test


def _statistics(split: Split) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Compute mean and standard deviation of each channel image by image, without a second copy of all images."""
    sums, squares = np.zeros(3), np.zeros(3)
    for image in split.images:
        pixels = image.reshape(-1, 3) / 255
        sums += pixels.mean(axis=0)
        squares += (pixels**2).mean(axis=0)
    mean = sums / len(split.images)
    std = np.sqrt(squares / len(split.images) - mean**2).clip(min=1e-3)
    (a, b, c), (d, e, f) = (np.round(values, 4).tolist() for values in (mean, std))
    return (a, b, c), (d, e, f)
