"""Check what was read: that images differ, and that the test images are not those of the training."""

import re
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Split
from kdcore.data.sources.folders import Files, Images
from kdcore.data.sources.levels import SMALL
from kdcore.data.sources.pixels import is_one_colour
from kdcore.data.sources.splits import role
from kdcore.system.errors import UserError, named, shown

LEAST = 1e-3
"""Least standard deviation of a channel over the training images, a quarter of one of 255 grey levels."""
PIECE = 4096
"""How many bytes in the middle of files of one size are compared first."""
WHITE = 255
"""The largest value of a pixel."""
CHANNELS = ("red", "green", "blue")
IMAGES = ("image", "img", "photo")
MASKS = (
    *("mask", "label", "annotation", "segmentation", "seg", "groundtruth", "ground_truth", "gt"),
    *("depth", "heatmap", "superpixel"),
)
"""What folders and names of images and of what is drawn over them are called, without an s at the end."""
OF_MASKS = re.compile(r"(?:\w+_)?(?:masks|annotations|segmentations|ground_?truths?|gt)")
"""Names that hardly are those of classes; mask and label may be."""
PREVIEWS = ("thumb", "thumbnail", "preview")
MISSING = (
    *("nan", "nat", "none", "null", "n/a", "<na>", "-1", "?", "undefined"),
    *("unlabeled", "unlabelled", "no label", "no_label", "not labeled"),
)
"""What programs and people write for a label that is missing, in small letters."""
Rgb = tuple[float, float, float]


def statistics(images: np.ndarray) -> tuple[Rgb, Rgb]:
    """Compute mean and standard deviation of each channel image by image, without a second copy of all images."""
    sums, squares = np.zeros(3), np.zeros(3)
    for image in images:
        pixels = image.reshape(-1, 3) / 255
        sums += pixels.mean(axis=0)
        squares += (pixels**2).mean(axis=0)
    mean = sums / len(images)
    std = np.sqrt((squares / len(images) - mean**2).clip(min=0))
    (a, b, c), (d, e, f) = (np.round(values, 4).tolist() for values in (mean, std))
    return (a, b, c), (d, e, f)


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


def check_split(images: np.ndarray, where: str, remedy: str, which: str) -> None:
    """Refuse images (N, P, P, 3) of a split that are all of one and the same colour, and say on stderr how many are of
    one colour each.

    Raises:
        UserError: they carry nothing; says what to do.
    """
    plain = [image[0, 0] for image in images if is_one_colour(image)]
    if plain and len(plain) == len(images) and (np.array(plain) == plain[0]).all():
        raise UserError(
            f"{where}: all {len(images)} {which} images are of one colour, {tuple(plain[0].tolist())}, so they carry "
            f"nothing; {remedy}"
        )
    if plain:
        print(f"{where}: {len(plain)} of {len(images)} {which} images are of one colour each", file=sys.stderr)


def say_dark(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], where: str, which: str) -> None:
    """Say on stderr which classes of a split are nearly black as a whole, as masks are, or values from 0 to 1.

    Where that is so of all classes, or of many images, `pixels.report` says it.

    Args:
        images: (N, P, P, 3) uint8.
        labels: (N,).
        classes: names of the classes.
        where: names the data set.
        which: names the split.
    """
    is_dark = SMALL * images.reshape(len(images), -1).max(axis=1).astype(int) <= WHITE
    dark = [classes[label] for label in np.unique(labels) if is_dark[labels == label].all()]
    if dark and not is_dark.all():
        print(
            f"{where}: all {which} images of {', '.join(map(named, dark[:6]))}{' ...' * (len(dark) > 6)} are nearly "
            f"black, without a value above {WHITE // SMALL} of {WHITE}; are they masks, or not scaled to {WHITE}?",
            file=sys.stderr,
        )


def check_decoded(train: Split, test: Split, where: str, remedy: str) -> None:
    """Check both splits of a data set in memory: `check_split` and `check_repeated` say how."""
    for split, which in ((train, "training"), (test, "test")):
        check_split(split.images, where, remedy, which)
    one, two = ([digest(image.tobytes()) for image in split.images] for split in (train, test))
    check_repeated(one, two, train.labels, test.labels, where)


def check_files_apart(train: Files, test: Files) -> None:
    """Refuse test images that are training images, through links, and images that are in two classes or twice in one.

    Equal images that a store outside keeps once, as git-annex does, and links to them, are told by their contents.

    Raises:
        UserError: names one.
    """
    train_paths, test_paths = _Real(train), _Real(test)
    both = sorted(train_paths.keys() & test_paths.keys())
    shared = [real for real in both if not (train_paths[real].is_symlink() and test_paths[real].is_symlink())]
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
    _check_suffixes(files, where)
    for name in (name for name in files if OF_MASKS.fullmatch(role(name))):
        print(f"{where}: {named(name)} is taken for a class; move it away if it holds masks", file=sys.stderr)
    masks = [path for paths in files.values() for path in _masks(paths)]
    if masks:
        print(
            f"{where}: {len(masks)} images are called like masks or previews of others, such as {masks[0]}; they count "
            "as images of their class; move them away if they are none",
            file=sys.stderr,
        )


def _check_suffixes(files: Files, where: str) -> None:
    """Say on stderr how many images differ from others beside them in their suffixes alone."""
    stems: set[Path] = set()
    same = []
    for path in (path for paths in files.values() for path in paths):
        stem = path.with_suffix("")
        same += [path] if stem in stems else []
        stems.add(stem)
    if same:
        print(
            f"{where}: {len(same)} images have the names of others with another suffix, such as {same[0]}; all count; "
            "move those away that are copies or masks",
            file=sys.stderr,
        )


def _masks(paths: list[Path]) -> list[Path]:
    """List the images of a class that are called like another one beside them, with a kind before or behind its name;
    those of x_depthcrop lie beside x_crop.
    """
    stems = {(path.parent, path.stem.removesuffix("_crop")) for path in paths}
    kind = rf"(?:{'|'.join((*MASKS, *PREVIEWS))})(?:s|crop)?"
    form = re.compile(rf"(?P<behind>.+?)[-_. ]{kind}(?:[-_. ]?\d+)?|{kind}[-_. ](?P<before>.+)", re.IGNORECASE)
    matches = ((path, form.fullmatch(path.stem)) for path in paths)
    return [path for path, match in matches if match and (path.parent, match["behind"] or match["before"]) in stems]


class _Real(dict[str, Path]):
    """File that is meant, without links -> the path that leads to it."""

    def __init__(self, files: Files) -> None:
        folders: dict[Path, Path] = {}
        for paths in files.values():
            of_class: dict[str, Path] = {}
            again = []
            for path in paths:
                if path.parent not in folders:
                    folders[path.parent] = path.parent.resolve()
                real = str(path.resolve() if path.is_symlink() else folders[path.parent] / path.name)
                if real in of_class and not (path.is_symlink() and of_class[real].is_symlink()):
                    again.append((path, of_class[real]))
                of_class[real] = path
            if again:
                raise UserError(
                    f"{again[0][0]}: is the image {again[0][1]} of the same class, through a link; {len(again)} images "
                    "would count twice; remove the links"
                )
            both = sorted(self.keys() & of_class.keys())
            twice = [real for real in both if not (self[real].is_symlink() and of_class[real].is_symlink())]
            if twice:
                raise UserError(
                    f"{of_class[twice[0]]}: is the image {self[twice[0]]} of another class, through a link; "
                    f"{len(twice)} images are in both classes; remove the links"
                )
            self.update(of_class)


def check_repeated(
    train: Sequence[Hashable], test: Sequence[Hashable], train_labels: np.ndarray, test_labels: np.ndarray, where: str
) -> None:
    """Say on stderr how many images occur more than once, and refuse a test on images of the training.

    Args:
        train: stands for each training image; equal for equal images.
        test: the same of the test images.
        train_labels: (N,), of the training images.
        test_labels: (M,), of the test images.
        where: names the data set.

    Raises:
        UserError: most test images are training images, or all images of a split are the same.
    """
    known = dict(zip(train, train_labels.tolist(), strict=True))
    for images, labels, which in ((train, train_labels, "training"), (test, test_labels, "test")):
        _check_repeated_inside(images, labels.tolist(), f"{where}:", which)
    in_both = [(known[image], label) for image, label in zip(test, test_labels.tolist(), strict=True) if image in known]
    if 2 * len(in_both) > len(test):
        how_many = f"all {len(test)}" if len(in_both) == len(test) else f"{len(in_both)} of {len(test)}"
        raise UserError(
            f"{where}: {how_many} test images are training images too, so their accuracy would say nothing; keep them "
            "apart"
        )
    if in_both:
        others = sum(one != two for one, two in in_both)
        print(
            f"{where}: {len(in_both)} of {len(test)} test images are equal to training images"
            f"{f', {others} of them of another class' if others else ''}",
            file=sys.stderr,
        )


def _check_repeated_inside(images: Sequence[Hashable], labels: list[int], where: str, which: str) -> None:
    """Refuse a split of one image, and say on stderr how many of its images are equal to earlier ones."""
    seen: dict[Hashable, int] = {}
    repeated, contradictory = Counter[int](), 0
    for image, label in zip(images, labels, strict=True):
        repeated[label] += image in seen
        contradictory += seen.setdefault(image, label) != label
    if len(images) > 1 and len(seen) == 1:
        raise UserError(f"{where} all {len(images)} {which} images are one and the same, so they carry nothing")
    if contradictory:
        print(
            f"{where} {contradictory} of {len(images)} {which} images are equal to one of another class",
            file=sys.stderr,
        )
    counts = Counter(labels)
    doubled = sum(2 * repeated[label] >= count for label, count in counts.items())
    versions = f", at least half in {doubled} of {len(counts)} classes; are two versions of the data set in one place?"
    if len(seen) < len(images):
        print(
            f"{where} {repeated.total()} of {len(images)} {which} images are equal to earlier ones"
            f"{versions if doubled else ''}",
            file=sys.stderr,
        )


def digest(image: bytes) -> bytes:
    """Return what stands for an image in `check_repeated`: its pixels, or its file."""
    return blake2b(image, digest_size=16).digest()


def keys_of(train: Images, test: Images) -> tuple[list[Hashable], list[Hashable]]:
    """Return a key for each image of training and test, its file or its content: equal for equal contents.

    No more is read of files than tells them apart: their sizes, then a piece of those of one size, then all.
    """
    keys: list[Hashable] = []
    files: dict[int, Path] = {}
    for image in (split[i] for split in (train, test) for i in range(len(split))):
        if isinstance(image, Path):
            files[len(keys)] = image
        keys.append(image.stat().st_size if isinstance(image, Path) else digest(image))
    for read in (_piece, Path.read_bytes):
        counts = Counter(keys)
        shared = [i for i in files if counts[keys[i]] > 1]
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(lambda i, read=read: digest(read(files[i])), shared))
        for i, content in zip(shared, digests, strict=True):
            keys[i] = (keys[i], content)
    return keys[: len(train)], keys[len(train) :]


def _piece(path: Path) -> bytes:
    """Read a piece of a file, where those of photographs differ."""
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(PIECE)


def say_names(classes: list[str], where: str) -> None:
    """Say on stderr where names of classes may mean the same or no class, or are numbers that are not counted in their
    order.
    """
    unknown = [shown(name) for name in classes if name.strip().lower() in MISSING]
    if unknown:
        print(f"{where}: {', '.join(unknown)} became a class; is the label missing there?", file=sys.stderr)
    alike: dict[str, list[str]] = {}
    for name in classes:
        key = name.strip().casefold()
        alike.setdefault(str(int(key)) if key.isdecimal() else key, []).append(name)
    if same := [named(name) for names in alike.values() if len(names) > 1 for name in names]:
        print(
            f"{where}: {', '.join(same[:6])}{' ...' * (len(same) > 6)} are different classes, though their names "
            "differ in capitals, spaces or leading zeros alone",
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
