"""Check what was read: that images differ, and that the test images are not those of the training."""

import re
import sys
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdcore.data.sources.folders import Files
from kdcore.data.sources.splits import role
from kdcore.system.errors import UserError, named, shown

LEAST = 1e-3
"""Least standard deviation of a channel over the training images, a quarter of one of 255 grey levels."""
CHANNELS = ("red", "green", "blue")
IMAGES = ("image", "img", "photo")
MASKS = ("mask", "label", "annotation", "segmentation", "seg", "groundtruth", "ground_truth", "gt")
"""What folders and names of images and of what is drawn over them are called, without an s at the end."""
Rgb = tuple[float, float, float]


def statistics(images: np.ndarray) -> tuple[Rgb, Rgb, int]:
    """Compute mean and standard deviation of each channel image by image, without a second copy of all images.

    Returns:
        Mean, deviation, and how many images are of one colour.
    """
    sums, squares, plain = np.zeros(3), np.zeros(3), 0
    for image in images:
        pixels = image.reshape(-1, 3) / 255
        sums += pixels.mean(axis=0)
        squares += (pixels**2).mean(axis=0)
        plain += not (image != image[:1, :1]).any()
    mean = sums / len(images)
    std = np.sqrt((squares / len(images) - mean**2).clip(min=0))
    (a, b, c), (d, e, f) = (np.round(values, 4).tolist() for values in (mean, std))
    return (a, b, c), (d, e, f), plain


def check_deviation(std: Rgb, where: str) -> None:
    """Refuse a channel by whose deviation nothing can be divided.

    Raises:
        UserError: names the channels, and what to set.
    """
    flat = [name for name, value in zip(CHANNELS, std, strict=True) if value < LEAST]
    if flat:
        raise UserError(
            f"{where}: the values of {' and '.join(flat)} hardly differ over the training images (deviation below "
            f"{LEAST} of 1), so they cannot be normalised; if that is as it should be, set data.mean and data.std"
        )


def check_not_constant(images: np.ndarray, where: str, remedy: str, which: str = "training") -> None:
    """Refuse images (N, P, P, 3) of a split that are all of one and the same colour.

    Raises:
        UserError: they carry nothing; says what to do.
    """
    if len(images) and all(not (image != images[0, 0, 0]).any() for image in images):
        raise UserError(
            f"{where}: all {len(images)} {which} images are of one colour, {tuple(images[0, 0, 0].tolist())}, so they "
            f"carry nothing; {remedy}"
        )


def check_files_apart(train: Files, test: Files) -> None:
    """Refuse test images that are training images, through links, and images that are in two classes.

    Raises:
        UserError: names one.
    """
    train_paths, test_paths = _Real(train), _Real(test)
    shared = sorted(train_paths.keys() & test_paths.keys())
    if shared:
        raise UserError(
            f"{test_paths[shared[0]]}: is the training image {train_paths[shared[0]]}; {len(shared)} of "
            f"{len(test_paths)} test images are files of the training images, through links; name other ones"
        )


def check_no_masks(files: Files, where: str) -> None:
    """Refuse folders of images and of what is drawn over them, which are no classes, and say where a class holds both.

    Raises:
        UserError: all classes are called like kinds of files, such as images and masks.
    """
    kinds = {role(name).removesuffix("s") for name in files}
    if kinds <= {*IMAGES, *MASKS} and not kinds.isdisjoint(IMAGES):
        raise UserError(
            f"{where}: {', '.join(map(named, files))} look like kinds of files and not like classes; put the images of "
            "each class into a folder called after the class"
        )
    masks = [path for paths in files.values() for path in _masks(paths)]
    if masks:
        print(
            f"{where}: {len(masks)} images are called like masks of others, such as {masks[0]}; they count as images "
            "of their class; move them away if they are masks",
            file=sys.stderr,
        )


def _masks(paths: list[Path]) -> list[Path]:
    """List the images of a class that are called like another one beside them, with a kind behind its name."""
    stems = {(path.parent, path.stem) for path in paths}
    ends = re.compile(rf"(.+?)[-_. ]({'|'.join(MASKS)})s?([-_. ]?\d+)?", re.IGNORECASE)
    return [path for path in paths if (end := ends.fullmatch(path.stem)) and (path.parent, end[1]) in stems]


class _Real(dict[str, Path]):
    """File that is meant, without links -> the path that leads to it."""

    def __init__(self, files: Files) -> None:
        folders: dict[Path, Path] = {}
        for paths in files.values():
            of_class: dict[str, Path] = {}
            for path in paths:
                if path.parent not in folders:
                    folders[path.parent] = path.parent.resolve()
                of_class[str(path.resolve() if path.is_symlink() else folders[path.parent] / path.name)] = path
            twice = sorted(self.keys() & of_class.keys())
            if twice:
                raise UserError(
                    f"{of_class[twice[0]]}: is the image {self[twice[0]]} of another class, through a link; "
                    f"{len(twice)} images are in both classes; remove the links"
                )
            self.update(of_class)


class Repeated(NamedTuple):
    """How many images there are, and how many occur more than once."""

    train: int
    test: int
    in_train: int
    """Training images that are equal to an earlier one."""
    in_both: int
    """Test images that are equal to a training image."""
    contradictory: int
    """Training images that are equal to an earlier one of another class."""


def repeated(train: Iterable[bytes], test: Iterable[bytes], labels: np.ndarray) -> Repeated:
    """Count equal images, each given by its pixels or by its file; labels (N,) are those of the training images."""
    first, second = ([_digest(image) for image in images] for images in (train, test))
    seen: dict[bytes, int] = {}
    other = sum(seen.setdefault(image, label) != label for image, label in zip(first, labels.tolist(), strict=True))
    return Repeated(len(first), len(second), len(first) - len(seen), sum(image in seen for image in second), other)


def check_repeated(found: Repeated, where: str) -> None:
    """Say on stderr how many images occur more than once, and refuse test images that all are training images.

    Raises:
        UserError: every test image is a training image, or all training images are the same.
    """
    if found.train > 1 and found.in_train == found.train - 1:
        raise UserError(f"{where}: all {found.train} training images are one and the same, so they carry nothing")
    if found.test and found.in_both == found.test:
        raise UserError(
            f"{where}: all {found.test} test images are training images too, so their accuracy would say nothing; keep "
            "them apart"
        )
    if found.in_both:
        print(f"{where}: {found.in_both} of {found.test} test images are equal to training images", file=sys.stderr)
    if found.contradictory:
        print(
            f"{where}: {found.contradictory} of {found.train} training images are equal to one of another class",
            file=sys.stderr,
        )
    if 2 * found.in_train >= found.train > 0:
        print(
            f"{where}: {found.in_train} of {found.train} training images are equal to earlier ones; are two versions "
            "of the data set in one place?",
            file=sys.stderr,
        )


def _digest(image: bytes) -> bytes:
    return blake2b(image, digest_size=16).digest()


def say_names(classes: list[str], where: str) -> None:
    """Say on stderr where names of classes may mean the same, or are numbers that are not counted in their order."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    if same := [named(name) for names in alike.values() if len(names) > 1 for name in names]:
        print(
            f"{where}: {', '.join(same[:6])}{' ...' * (len(same) > 6)} are different classes, though their names "
            "differ in capitals or spaces alone",
            file=sys.stderr,
        )
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        print(
            f"{where}: classes are counted in alphabetical order, {', '.join(classes[:3])} ..., though their names are "
            "numbers; a checkpoint must have been trained in this order",
            file=sys.stderr,
        )


def say_left_out(names: list[str], where: str) -> None:
    """Say on stderr which files or folders are of no split."""
    if names:
        listed = ", ".join(shown(name) for name in names[:5])
        print(f"{where}: left out, for they are of no split that is used: {listed}{' ...' * (len(names) > 5)}",
              file=sys.stderr)  # fmt: skip
