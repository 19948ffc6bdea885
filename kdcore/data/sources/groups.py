"""Notice the folders that divide a class: they may be the classes that are meant, or videos, patients and the like."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdcore.system.errors import named

MOST = 5
"""Most classes that a message names."""
Files = Mapping[str, list[Path]]
"""Class -> its files."""


def say_groups(splits: Iterable[Files], where: str) -> None:
    """Say on stderr how many classes hold no images of their own but several folders, whose images count as one class.

    Args:
        splits: the files of each split, or those of all images together.
        where: names the data set.
    """
    classes: dict[str, Path] = {}
    total = set[str]()
    for files in splits:
        total |= files.keys()
        for name, paths in files.items():
            groups = _groups(paths)
            if groups and all(path.parent in groups for path in paths):
                classes.setdefault(name, min(groups.values()))
    if classes:
        listed = ", ".join(map(named, list(classes)[:MOST])) + " ..." * (len(classes) > MOST)
        print(
            f"{where}: {len(classes)} of {len(total)} classes ({listed}) hold no images of their own but several "
            f"folders, such as {next(iter(classes.values()))}; the images of all of them count as one class. If these "
            "folders are the classes, move or link them into one folder, side by side, and name that; if each is a "
            "video, a patient or the like, note that data.validation draws images and not folders",
            file=sys.stderr,
        )


def say_divided_groups(train: Files, test: Files, where: str) -> None:
    """Say on stderr how many folders below classes have images in training and test, where images were drawn."""
    both: list[Path] = []
    total = 0
    for name in train:
        groups = _groups([*train[name], *test[name]])
        of_train, of_test = ({groups.get(path.parent) for path in files[name]} for files in (train, test))
        both += [group for group in sorted(set(groups.values())) if group in of_train & of_test]
        total += len(set(groups.values()))
    if both:
        print(
            f"{where}: {len(both)} of {total} folders below classes, such as {both[0]}, have images in both training "
            "and test, for data.test_share draws images and not folders. If each is a video, a patient, a slide or the "
            "like, the test is of what was trained on: divide the folders into train/<class> and test/<class> "
            "yourself, and remove data.test_share; data.validation draws images, too",
            file=sys.stderr,
        )


def _groups(paths: list[Path]) -> dict[Path, Path]:
    """Return what divides a class: each folder of images -> the folder that it is or lies in, on the level where the
    class has several; none if it has no such level. Images that lie on that level themselves are in none.
    """
    folders = {path.parent for path in paths}
    top = Path(os.path.commonpath(folders))
    groups = {folder: top / folder.relative_to(top).parts[0] for folder in folders - {top}}
    return groups if len(set(groups.values())) > 1 else {}
