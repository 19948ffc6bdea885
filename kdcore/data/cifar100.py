"""CIFAR-100: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. 32 x 32, 100 classes.

Read from torchvision's download, from an extracted official archive (`cifar-100-python`), or from parquet files with
encoded images and fine labels, the layout of the common hubs.
"""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from kdcore.data.store import Dataset, Split, first_of_each_class
from kdcore.errors import UserError

COUNTS = {"train": 50_000, "test": 10_000}
CLASSES = 100
ARCHIVE = "cifar-100-python"
MEAN = (0.5071, 0.4867, 0.4408)
STD = (0.2675, 0.2565, 0.2761)
"""As in all published distillation code, from mdistiller:mdistiller/dataset/cifar100.py."""


def fetch(*, source: str, train_per_class: int | None) -> Dataset:
    """CIFAR-100 with its fine labels.

    Args:
        source: "download"; a folder that is, or holds, an extracted `cifar-100-python`; or a folder of parquet
            files, `train*.parquet` and `test*.parquet`.
        train_per_class: the first so many training images of each class; None for all 500.

    Raises:
        UserError: the source holds no CIFAR-100, or not all of it.
    """
    splits, classes = _read(source)
    for name, split in splits.items():
        counts = np.bincount(split.labels, minlength=CLASSES)
        if len(split.labels) != COUNTS[name] or len(set(counts)) != 1:
            raise UserError(
                f"data.source {source}: the {name} split has {len(split.labels)} images in {np.count_nonzero(counts)} "
                f"classes; CIFAR-100 has {COUNTS[name]}, the same number in each of {CLASSES}"
            )
    train = splits["train"]
    if train_per_class is not None:
        train = first_of_each_class(train, train_per_class)
    return Dataset("cifar100", classes, train, splits["test"], MEAN, STD, padding=4, flip=True)


def _read(source: str) -> tuple[dict[str, Split], list[str]]:
    if source == "download":
        with tempfile.TemporaryDirectory() as downloads:
            return _from_archive(Path(downloads), download=True)
    folder = Path(source)
    if folder.name == ARCHIVE:
        folder = folder.parent
    if (folder / ARCHIVE).is_dir():
        return _from_archive(folder, download=False)
    if list(folder.glob("*.parquet")):
        return _from_parquet(folder)
    raise UserError(f"data.source {source}: holds neither a folder {ARCHIVE} nor parquet files")


def _from_archive(root: Path, *, download: bool) -> tuple[dict[str, Split], list[str]]:
    from torchvision.datasets import CIFAR100  # a second to import, and only this source needs it

    splits = {}
    classes: list[str] = []
    for name in COUNTS:
        try:
            content = CIFAR100(root, train=name == "train", download=download)
        except (RuntimeError, OSError) as error:
            raise UserError(f"CIFAR-100 could not be read from {root} ({error}); give data.source a path") from error
        splits[name] = Split(content.data, np.asarray(content.targets, dtype=np.int64))
        classes = content.classes
    return splits, classes


def _from_parquet(folder: Path) -> tuple[dict[str, Split], list[str]]:
    splits = {}
    for name in COUNTS:
        files = sorted(folder.glob(f"{name}*.parquet"))
        if not files:
            raise UserError(f"data.source {folder}: has no {name}*.parquet")
        parts = [_parquet_file(path) for path in files]
        splits[name] = Split(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    names = folder / "classes.json"
    classes = json.loads(names.read_text()) if names.is_file() else [str(label) for label in range(CLASSES)]
    return splits, classes


def _parquet_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pyarrow.parquet.read_table(path, columns=["img", "fine_label"])
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a parquet file with columns img and fine_label ({error})") from error
    images = np.stack([_decode(row, path) for row in table["img"].to_pylist()])
    return images, table["fine_label"].to_numpy().astype(np.int64)


def _decode(row: dict[str, Any], path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: image {row.get('path')!r} cannot be decoded ({error})") from error
