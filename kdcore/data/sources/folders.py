"""Read images in folders, one folder per class."""

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from kdcore.data.dataset import Encoded, Split
from kdcore.data.images import UnreadableError, check_image, read_image
from kdcore.data.sources.pixels import BlankError, check_end
from kdcore.data.sources.splits import TEST, TRAIN, VALIDATION, composed, in_order, is_hidden, role
from kdcore.system.errors import UserError, named, shown
from kdcore.system.pointers import file_stands_for_another, stands_for_another

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
PACKED = (
    *(".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"),
    *(".h5", ".hdf5", ".lmdb", ".npy", ".npz", ".parquet"),
)
"""Ends of the names of files that may hold the images of a class."""
LARGEST = 16 * 2**30
"""Most bytes of images that are kept in memory."""

Files = dict[str, list[Path]]
"""Class -> its files, both in alphabetical order."""


class Images(Protocol):
    """Encoded images: files, or their content."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, position: int, /) -> Path | bytes:
        """Return the image at a position: its file, or its content."""


def visible_folders(folder: Path) -> list[Path]:
    """List the folders in a folder in alphabetical order, however accents are written, without hidden ones.

    Raises:
        UserError: a link leads nowhere.
    """
    try:
        visible = sorted((child for child in folder.iterdir() if not is_hidden(child.name)), key=in_order)
    except OSError as error:
        unreadable(error)
    for child in visible:
        check_link(child)
    return [child for child in visible if child.is_dir()]


def classes_below(folder: Path, *, beside: Container[str] = ()) -> Files:
    """List the images below each class's folder, however deep, also through links, without hidden ones.

    Args:
        folder: holds one folder per class.
        beside: suffixes of other files that belong there. All other files are counted on stderr.

    Raises:
        UserError: no folders, one without images, or a link that leads nowhere.
    """
    classes: Files = {}
    left_out: Counter[str] = Counter()
    children = visible_folders(folder)
    if not children:
        raise UserError(f"{folder}: holds no folders; expected one folder of images per class")
    check_no_splits(children, folder)
    for child in children:
        if not child.name.isprintable():
            raise UserError(f"{folder}: {child.name!r} names a class, and cannot be printed; rename that folder")
        name = composed(child.name)
        if name in classes:
            raise UserError(
                f"{folder}: two folders are called {name}, with accents written in two ways (NFC and NFD); merge them"
            )
        paths = list(visible_files(child))
        classes[name] = sorted((path for path in paths if path.suffix.lower() in SUFFIXES), key=in_order)
        if not classes[name]:
            raise UserError(f"{child}: holds no images ({', '.join(sorted(SUFFIXES))})")
        left_out.update(path.suffix for path in paths if path.suffix.lower() not in SUFFIXES)
    _look_deeper(classes, children, folder)
    _say_strays(folder, beside)
    others = {suffix: count for suffix, count in sorted(left_out.items()) if suffix.lower() not in beside}
    if others:
        which = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in others.items())
        print(
            f"{folder}: files left out, for they are not {', '.join(sorted(SUFFIXES))}: {which}",
            file=sys.stderr,
        )
    return classes


def _say_strays(folder: Path, beside: Container[str]) -> None:
    """Say on stderr which files lie beside the classes' folders: images, and others, such as a class in an archive."""
    files = [path for path in sorted(folder.iterdir(), key=in_order) if path.is_file() and not is_hidden(path.name)]
    images = sum(map(_is_visible_image, files))
    if images:
        print(f"{folder}: {images} images left out, for they lie in no class's folder", file=sys.stderr)
    packed = [path.name for path in files if path.name.lower().endswith(PACKED) and path.suffix.lower() not in beside]
    if packed:
        listed = ", ".join(map(shown, packed[:5])) + " ..." * (len(packed) > 5)
        print(
            f"{folder}: {listed} left out, for a class is a folder; unpack what holds images of a class",
            file=sys.stderr,
        )


def _look_deeper(classes: Files, children: list[Path], folder: Path) -> None:
    """Refuse classes that are split inside, and say on stderr which folders lie beside images of a class, for they may
    hold its masks or previews.
    """
    deeper = []
    for child, paths in zip(children, classes.values(), strict=True):
        parents = {path.parent for path in paths}
        _check_not_split(child, parents - {child})
        deeper += sorted(parents - {child}) if child in parents else []
    if deeper:
        print(
            f"{folder}: {len(deeper)} folders with images lie beside images of a class, such as {deeper[0]}; their "
            "images count as of that class; move them away if they are masks or previews",
            file=sys.stderr,
        )


def _check_not_split(child: Path, folders: Iterable[Path]) -> None:
    """Refuse a class's folders that are called like training and test, for all their images would be of one split."""
    inside: dict[Path, set[str]] = {}
    for folder in folders:
        for inner in (folder, *folder.parents):
            if inner == child:
                break
            inside.setdefault(inner.parent, set()).add(inner.name)
    for holder, names in inside.items():
        found = [
            [name for name in sorted(names) if role(name) in of_split] for of_split in (TRAIN, (*TEST, *VALIDATION))
        ]
        if all(found):
            raise UserError(
                f"{holder}: holds the folders {found[0][0]} and {found[1][0]}, so this class seems to be split; all "
                "its images would be taken together. Move them to train/<class> and test/<class>, or into one folder"
            )


def check_no_splits(folders: list[Path], root: Path) -> None:
    """Refuse folders that look like the parts of a split, or like folds, and not like classes: they hold no images
    themselves, but folders of the same names, or one of the name of a folder beside them. Say on stderr where a single
    name leaves it open.

    Raises:
        UserError: names them and what they hold.
    """
    inside = {folder: _names_inside(folder) for folder in folders}
    own = {composed(folder.name).casefold() for folder in folders}
    are_alike = len(folders) > 1 and len({frozenset(names) for names in inside.values()}) == 1
    for folder, names in inside.items() if not are_alike else ():
        direct = {composed(child.name).casefold() for child in visible_folders(folder)} if names else set()
        beside = (names | direct) & own - {composed(folder.name).casefold()}
        if beside:
            raise UserError(
                f"{folder}: holds no images itself but folders that are called like those beside it "
                f"({', '.join(map(named, sorted(beside)[:5]))}), so it looks like another data set and not like a "
                "class; move it away, or move its images into those folders"
            )
    unclear: set[tuple[str, ...]] = set()
    kinds = Counter(frozenset(names) for names in inside.values() if names)  # there may be thousands of classes
    for one, two in combinations([kind for kind, count in kinds.items() for _ in range(min(count, 2))], 2):
        shared, either = one & two, one | two
        if not shared or len(either) == 1:
            continue
        alike = [folder.name for folder, names in inside.items() if names & shared]
        if len(shared) > 1 or either in (one, two) or _are_numbered(alike):
            raise UserError(
                f"{root}: {', '.join(map(named, alike[:5]))}{' ...' if len(alike) > 5 else ''} hold no images "
                f"themselves but folders of the same names ({', '.join(map(named, sorted(shared)[:5]))}), so they look "
                "like parts of a split and not like classes. Name two of them train and test; or name one as "
                "data.source; or, if they are classes, put their images into them, without folders between"
            )
        unclear |= {(*alike[:5], min(shared))}
    for *alike, name in sorted(unclear)[:5]:
        print(
            f"{root}: {', '.join(map(named, alike))} are taken as classes, though each holds a folder {named(name)}; "
            "if that is a class, they are parts of a split",
            file=sys.stderr,
        )


def _are_numbered(names: list[str]) -> bool:
    """Whether names differ in a number alone, or in the letter at their end: 2019 and 2020, part_a and part_b."""
    plain = {re.sub(r"\d+|(?<![^\W_])[a-z]$", "", name.casefold()) for name in names}
    return len(plain) == 1 and len(names) > 1


def _names_inside(folder: Path) -> set[str]:
    """Return the names of the folders in a folder that holds no images itself, or in the only folder in it; none if
    there are images. Capitals do not count.
    """
    if holds_images(folder):
        return set()
    inside = visible_folders(folder)
    is_wrapped = len(inside) == 1 and not inside[0].is_symlink()
    return (_names_inside(inside[0]) if is_wrapped else set()) or {composed(child.name).casefold() for child in inside}


def holds_images(folder: Path) -> bool:
    """Whether images lie directly in a folder."""
    try:
        return any(_is_visible_image(path) for path in folder.iterdir())
    except OSError as error:
        unreadable(error)


def _is_visible_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and not path.is_dir()


def check_number(classes: Collection[object], where: str) -> None:
    """Refuse a single class.

    Raises:
        UserError: names it.
    """
    if len(classes) < 2:
        raise UserError(
            f"{where}: holds one class, {next(iter(classes), 'none')}; at least two are needed to tell apart"
        )


def check_same_classes(train: Iterable[str], test: Iterable[str], where: Path) -> None:
    """Refuse splits of other classes.

    Raises:
        UserError: names classes of one split alone.
    """
    alone = sorted(set(train) ^ set(test))
    if alone:
        raise UserError(f"{where}: classes must be the same in training and test; in one of them alone: {alone[:5]}")


def index_images(files: Files, root: Path) -> Encoded:
    """Make a split that names image files below `root`, which are decoded whenever they are seen.

    Raises:
        UserError: a name is no text.
    """
    paths = [str(path.relative_to(root)) for paths_of_class in files.values() for path in paths_of_class]
    try:
        return Encoded(pa.table({"path": paths, "label": labels_of(files)}), root)
    except UnicodeEncodeError as error:
        raise UserError(f"{root}: the name of the file {shown(error.object)} is not in UTF-8; rename it") from error


def read_images(files: Files, side: int, *, resize: bool = True) -> Split:
    """Make a split of images that are decoded now; `decode_images` explains arguments and errors."""
    paths = [path for paths_of_class in files.values() for path in paths_of_class]
    return Split(decode_images(paths, side, resize=resize), labels_of(files))


def decode_images(
    images: Images,
    side: int,
    name: Callable[[int], str] | None = None,
    *,
    resize: bool = True,
    read: Callable[[Path | bytes], Image.Image] = read_image,
) -> np.ndarray:
    """Decode encoded images.

    Args:
        images: files, or their content.
        side: P, in pixels.
        name: names the image at a position, for messages; None names its file.
        resize: resize images of another size with a bilinear filter, instead of refusing them.
        read: decodes one image, in RGB.

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
        where = _where(images, position, name)
        try:
            image = read(images[position])
            check_end(images[position])
        except UnreadableError as error:
            raise _refusal(images[position], where, error) from error
        if image.size != (side, side):
            if not resize:
                raise UserError(f"{where}: is of {image.size} pixels, not {(side, side)}")
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        decoded[position] = np.asarray(image)

    each(fill, len(images))
    return decoded


def check_images(images: Images, name: Callable[[int], str] | None = None) -> None:
    """Read the header of every image, without decoding it; `decode_images` explains the arguments.

    Raises:
        UserError: one is missing, no image, or of 32 bits per pixel and channel.
    """

    def look(position: int) -> None:
        try:
            check_image(images[position])
            check_end(images[position])
        except UnreadableError as error:
            raise _refusal(images[position], _where(images, position, name), error) from error

    each(look, len(images))


def _refusal(image: Path | bytes, where: str, error: UnreadableError) -> UserError:
    """Say why an image cannot be used, and what to do about it."""
    if isinstance(error, BlankError):
        return UserError(f"{where}: {error}")
    pointer = file_stands_for_another(image) if isinstance(image, Path) else stands_for_another(image)
    return UserError(f"{where}: {pointer or f'cannot be decoded ({error}); replace or remove it'}")


def each(do: Callable[[int], None], count: int) -> None:
    """Call a function with every position, in several threads."""
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(do, range(count)):
            pass


def _where(images: Images, position: int, name: Callable[[int], str] | None) -> str:
    return name(position) if name else str(images[position])


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also through links, without hidden ones.

    Raises:
        UserError: a folder cannot be read, or a link leads nowhere or in circles, or a file is a pipe or a device.
    """
    for parent, inside, files in os.walk(folder, onerror=unreadable, followlinks=True):
        inside[:] = [name for name in inside if not is_hidden(name)]
        for link in (Path(parent, name) for name in inside):
            if link.is_symlink() and link.resolve() in [Path(parent).resolve(), *Path(parent).resolve().parents]:
                raise UserError(f"{link}: is a link to a folder that it is in; remove it")
        for name in files:
            if not is_hidden(name):
                path = Path(parent, name)
                check_link(path)
                if not path.is_file():
                    raise UserError(f"{path}: is a pipe or a device; remove it")
                yield path


def check_link(path: Path) -> None:
    """Refuse a link that leads nowhere.

    Raises:
        UserError: names the link and where it leads.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: is a link to {path.readlink()}, which is missing; mend or remove it")


def unreadable(error: OSError) -> NoReturn:
    """Refuse a folder that cannot be listed.

    Raises:
        UserError: names it and the system's reason.
    """
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); see its permissions") from error


def labels_of(files: Files) -> np.ndarray:
    """Return the class (N,) int64 of every image, counted in the order of the classes."""
    return np.repeat(np.arange(len(files)), [len(paths) for paths in files.values()])
