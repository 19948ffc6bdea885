"""Divide folders of images into training and test: as the user did, or by a share of each class."""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdcore.data.sources.contents import say_left_out
from kdcore.data.sources.folders import (
    Files,
    check_no_splits,
    check_same_classes,
    classes_below,
    holds_images,
    visible_folders,
)
from kdcore.data.sources.groups import say_divided_groups, say_groups
from kdcore.data.sources.splits import ALL, NO_CLASS, TEST, TRAIN, VALIDATION, looks_like_split, role
from kdcore.system.errors import UserError, named

WANTED = f"train and {TEST[0]} or {VALIDATION[0]} (docs/extending.md has other names for them)"


def divided(root: Path, test_share: float | None) -> tuple[Files, Files]:
    """List the images of training and test.

    Args:
        root: holds a folder for each split, with a folder per class; or a folder per class.
        test_share: the share of each class that is kept for the test, in the second case; None in the first.

    Raises:
        UserError: neither is there, or it is unclear which.
    """
    folders = visible_folders(root)
    train = _named(root, folders, TRAIN)
    test = _test(root, folders) if train else None
    if train and test:
        if test_share is not None:
            raise UserError(f"data.test_share: {root} is split already, into {train.name} and {test.name}; remove it")
        train_files, test_files = _classes(_innermost(train)), classes_below(_innermost(test))
        check_same_classes(train_files, test_files, root)
        say_groups((train_files, test_files), f"data.source {root}")
        say_left_out([folder.name for folder in folders if folder not in (train, test)], f"data.source {root}")
        return train_files, test_files
    named_like_a_test = [folder for folder in folders if role(folder.name) in (*TEST, *VALIDATION)]
    unsorted = [folder for folder in named_like_a_test if _is_flat(folder)]
    if test_share is None and train and unsorted:
        raise UserError(
            f"data.source: {root}: the images in {unsorted[0].name} are in no class's folder; sort them, or set "
            f"data.source: folder:{train} and data.test_share, for example 0.2, to test on that share of each class"
        )
    if test_share is None:
        raise UserError(f"data.source: {root} has no folders {WANTED}{_what_instead(root, folders)}")
    if train and set(folders) == {train, *unsorted}:
        say_left_out([folder.name for folder in unsorted], f"data.source {root}")
        return _drawn(_innermost(train), test_share, root)
    _check_classes(root, folders)
    _say_halves(folders, root)
    return _drawn(root, test_share, root)


def _drawn(holder: Path, share: float, root: Path) -> tuple[Files, Files]:
    """Divide the classes in a folder by a share, and say on stderr what may be none, or should not be divided so."""
    files = _classes(holder)
    say_groups([files], f"data.source {root}")
    train, test = _divide(files, share, holder)
    say_divided_groups(train, test, f"data.source {root}")
    return train, test


def _classes(holder: Path) -> Files:
    """List the images of the classes in a folder, and say on stderr which are hardly called like one."""
    for folder in visible_folders(holder):
        like = "a split" if looks_like_split(folder.name) else "images of no class"
        if looks_like_split(folder.name) or NO_CLASS.fullmatch(role(folder.name)):
            print(
                f"{folder}: is taken for a class, though it is called like {like}; move it away if it is none",
                file=sys.stderr,
            )
    return classes_below(holder)


def _test(root: Path, folders: list[Path]) -> Path | None:
    """Return the folder of the test images, or of the validation images where those of the test are of no class."""
    found = (_named(root, folders, TEST), _named(root, folders, VALIDATION))
    return next((folder for folder in found if folder and not _is_flat(folder)), None)


def _is_flat(folder: Path) -> bool:
    """Whether images of a split are in no class's folder, as where their classes are secret."""
    innermost = _innermost(folder)
    return holds_images(innermost) and not visible_folders(innermost)


def _named(root: Path, folders: list[Path], names: Sequence[str]) -> Path | None:
    """Return the folder of a split, in capitals or not, or None."""
    same = [folder for folder in folders if role(folder.name) in names]
    if len(same) > 1:
        raise UserError(f"data.source: {root} holds {' and '.join(folder.name for folder in same)}; keep one of them")
    return same[0] if same else None


def _innermost(folder: Path) -> Path:
    """Return the folder that holds the classes, where archives have it twice: seg_train/seg_train/<class>."""
    while (inside := visible_folders(folder)) and len(inside) == 1 and role(inside[0].name) == role(folder.name):
        folder = inside[0]
    return folder


def _what_instead(root: Path, folders: list[Path]) -> str:
    """Say what to do where there are no folders of splits, and no share for the test either."""
    deeper = [
        folder
        for folder in map(_innermost, folders)
        if _is_split(folder) and not any(map(holds_images, visible_folders(folder)))
    ]
    if deeper:
        which = "has; name that" if len(deeper) == 1 else "have; name one of them"
        return f", but {' and '.join(str(folder) for folder in deeper[:5])} {which} in data.source"
    try:
        check_no_splits(folders, root)
    except UserError as error:
        return f"; {str(error).removeprefix(f'{root}: ')}"
    return "; add them, or set data.test_share, for example 0.2, to keep that share of each class for the test"


def _is_split(folder: Path) -> bool:
    roles = {role(inner.name) for inner in visible_folders(folder)}
    return not roles.isdisjoint(TRAIN) and not roles.isdisjoint((*TEST, *VALIDATION))


def _check_classes(root: Path, folders: list[Path]) -> None:
    """Refuse folders that are to be classes, and look like splits, or like what holds the classes."""
    if folders and all(role(folder.name) in (*TEST, *VALIDATION) for folder in folders):
        raise UserError(
            f"data.source: {root} holds {', '.join(folder.name for folder in folders)}, but no folder train; add it "
            "and remove data.test_share, or name the folder that holds the classes"
        )
    of_train, of_others = (_without_split(folders, names) for names in (TRAIN, (*TEST, *VALIDATION)))
    if of_train & of_others and len(of_train | of_others) > 1 and all(_without_split([f], ALL) for f in folders):
        raise UserError(
            f"data.source: {root} holds {', '.join(folder.name for folder in folders[:5])}"
            f"{' ...' * (len(folders) > 5)}, which are called after a split and a class each; move them into folders "
            f"{WANTED}, and remove data.test_share"
        )
    for folder in folders:
        if len(folders) == 1 and _is_split(folder):
            raise UserError(
                f"data.test_share: {folder} is split already; name it in data.source, and remove test_share"
            )
        if looks_like_split(folder.name) and not holds_images(folder) and visible_folders(folder):
            raise UserError(
                f"data.source: {root} holds {folder.name}, with folders of its own, beside "
                f"{', '.join(other.name for other in folders if other != folder)}; is it a split or a class? Name the "
                "folder that holds the classes, or move the others away"
            )
    if len(folders) == 1 and not holds_images(folders[0]) and len(visible_folders(folders[0])) > 1:
        raise UserError(
            f"data.source: {root} holds one folder, {folders[0].name}, with folders and no images; name that one in "
            "data.source"
        )


def _without_split(folders: list[Path], names: Sequence[str]) -> set[str]:
    """Return the rest of the names of folders that begin or end with the name of a split: train_cat, trainCat, or
    cat_train.
    """
    either = "|".join(sorted(names, key=len, reverse=True))
    words = (re.sub(r"(?<=[a-z])(?=[A-Z0-9])|[^0-9A-Za-z]+", "_", folder.name).strip("_") for folder in folders)
    matches = (re.fullmatch(rf"(?:{either})_(.+)|(.+)_(?:{either})", name.lower()) for name in words)
    return {match[1] or match[2] for match in matches if match}


def _say_halves(folders: list[Path], root: Path) -> None:
    """Say on stderr which classes may be the training and test images of one: cat and cat_test, x_train and x_test."""
    tests = [folder for folder in folders if _without_split([folder], (*TEST, *VALIDATION))]
    for test in tests[:5]:
        whole = _without_split([test], (*TEST, *VALIDATION))
        halves = [one for one in folders if role(one.name) in whole or _without_split([one], TRAIN) & whole]
        if halves:
            print(
                f"{root}: {named(halves[0].name)} and {named(test.name)} are taken for classes, though they are called "
                "like the training and test images of one; if they are, put them into train/<class> and test/<class>",
                file=sys.stderr,
            )


def _divide(files: Files, share: float, root: Path) -> tuple[Files, Files]:
    """Draw a share of every class for the test; the draw is the same each time."""
    train: Files = {}
    test: Files = {}
    for label, (name, paths) in enumerate(files.items()):
        kept = math.ceil(round(share * len(paths), 6))  # 0.07 * 100 is a little above 7
        if kept == len(paths):
            raise UserError(
                f"{root / name}: of {len(paths)} images {kept} would be kept for the test, none left; lower "
                "data.test_share, or add images"
            )
        chosen = set(np.random.Generator(np.random.PCG64([0, label])).permutation(len(paths))[:kept].tolist())
        train[name] = [path for i, path in enumerate(paths) if i not in chosen]
        test[name] = [path for i, path in enumerate(paths) if i in chosen]
    return train, test
