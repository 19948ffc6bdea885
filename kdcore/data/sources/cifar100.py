"""CIFAR-100: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. 32 x 32, 100 classes.

Read from the official archive, or from parquet files of encoded images and fine labels, the layout of the common hubs.
"""

import json
from pathlib import Path

import numpy as np

from kdcore.data.dataset import Dataset, Split, first_of_each_class
from kdcore.data.sources import parquet, shards
from kdcore.data.sources.archive import Archive, opened
from kdcore.data.sources.columns import ANY, Columns
from kdcore.data.sources.contents import check_split
from kdcore.data.sources.splits import TEST, TRAIN
from kdcore.system.errors import UserError

COUNTS = {"train": 50_000, "test": 10_000}
NAMES = {"train": TRAIN, "test": TEST}
"""Split -> the names that its parquet files may have."""
CLASSES = 100
SIDE = 32
ARCHIVE = Archive(
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
)
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)
"""Mean and standard deviation in all published distillation code, from mdistiller:mdistiller/dataset/cifar100.py."""


def fetch(
    *,
    source: str,
    train_per_class: int | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Read CIFAR-100 with its fine labels.

    Args:
        source: "download"; the path of the archive, or of the folder extracted from it; or of a folder of parquet
            files (see `shards.find`), with or without the names of the classes in `classes.json`.
        train_per_class: the first so many training images of each class; None for all 500.
        image_column: the column of parquet files that holds the images; None finds it.
        label_column: the column of parquet files that holds the fine labels; None finds it.

    Raises:
        UserError: the source holds no CIFAR-100, or not all of it.
    """
    splits, classes = _read(source, Columns(image_column, label_column))
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=CLASSES)
        if len(split.labels) != COUNTS[name] or len(set(counts)) != 1:
            raise UserError(
                f"data.source {source}: the {name} split has {len(split.labels)} images in {np.count_nonzero(counts)} "
                f"classes; CIFAR-100 has {COUNTS[name]}, the same number in each of {CLASSES}"
            )
    train = splits["train"]
    for split, which in ((train, "training"), (splits["test"], "test")):
        check_split(split.images, f"data.source {source}", "get it anew", which)
    if train_per_class is not None:
        train = first_of_each_class(train, train_per_class)
    return Dataset("cifar100", classes, train, splits["test"], MEAN, STD, image_size=SIDE, flip=True, padding=4)


def _read(source: str, columns: Columns) -> tuple[dict[str, Split], list[str]]:
    if source != "download" and any(shards.find(Path(source), names) for names in NAMES.values()):
        return _from_parquet(Path(source), columns)
    if columns != ANY:
        raise UserError(f"data.source {source}: is not of parquet files; remove data.image_column and label_column")
    with opened(source, ARCHIVE) as folder:
        return _from_archive(folder)


def _from_archive(folder: Path) -> tuple[dict[str, Split], list[str]]:
    from torchvision.datasets import CIFAR100  # a second to import, and only this source needs it

    splits = {}
    classes: list[str] = []
    for name in COUNTS:
        try:
            content = CIFAR100(folder.parent, train=name == "train")
        except (RuntimeError, OSError) as error:
            raise UserError(f"{folder}: is not CIFAR-100 as published ({error})") from error
        splits[name] = Split(content.data, np.asarray(content.targets, dtype=np.int64))
        classes = content.classes
    return splits, classes


def _from_parquet(folder: Path, columns: Columns) -> tuple[dict[str, Split], list[str]]:
    rows = {name: parquet.read(folder, names, columns=columns) for name, names in NAMES.items()}
    parquet.check_together(folder, rows["train"], rows["test"])
    classes, labels = parquet.common_classes(*rows.values())
    names = folder / "classes.json"
    if all(isinstance(label, str) for label in rows["train"].labels):
        if all(name.isdecimal() for name in classes):
            raise UserError(
                f"data.source {folder}: labels are numbers written as text, whose alphabetical order is another; write "
                "them as whole numbers, as published"
            )
        if names.is_file() and _class_names(names) != classes:
            raise UserError(
                f"{names}: names other classes than the labels, which are text, or in another order; remove it"
            )
    elif names.is_file():
        classes = _class_names(names)
    splits = {
        name: split_rows.decode(split_labels, SIDE, resize=False)
        for (name, split_rows), split_labels in zip(rows.items(), labels, strict=True)
    }
    return splits, classes


def _class_names(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is not JSON ({error}); mend or remove it") from error
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_names or len(set(names)) != len(names) or len(names) != CLASSES:
        raise UserError(
            f"{file}: must be a list of {CLASSES} different names, in the order of the labels; mend or remove it"
        )
    return names
