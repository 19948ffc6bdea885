"""Parquet files of encoded images and labels, in the layout of the common hubs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from kdcore.data import tree
from kdcore.data.store import Split
from kdcore.errors import UserError

LABELS = ("label", "labels", "fine_label", "class")
"""Columns that may hold the class, the first that is there."""


@dataclass(frozen=True)
class Rows:
    """The images of one split."""

    files: list[Path]
    images: list[bytes]
    """Each the content of an image file."""
    labels: list[int] | list[str]
    names: list[str] | None
    """Of the classes, where labels are numbers and the file says them."""

    def name(self, position: int) -> str:
        """Of an image, for messages."""
        return f"{self.files[0].parent}: image {position} of {', '.join(file.name for file in self.files)}"

    def decode(self, labels: np.ndarray, side: int, *, resize: bool = True) -> Split:
        """As a split in memory; see `kdcore.data.tree.decode`."""
        return Split(tree.decode(self.images, side, self.name, resize=resize), labels)

    def table(self, labels: np.ndarray) -> pa.Table:
        """As `kdcore.data.store.Encoded` wants it."""
        return pa.table({"image": pa.array(self.images, pa.large_binary()), "label": labels})


def read(folder: Path, splits: Sequence[str]) -> Rows:
    """The rows of the first of these splits that a folder holds.

    Args:
        folder: with `<split>*.parquet`, or with a folder `data` that has them.
        splits: beginnings of file names.

    Raises:
        UserError: no such files, or files without one column of images and one of labels.
    """
    for split in splits:
        files = sorted(folder.glob(f"{split}*.parquet")) or sorted(folder.glob(f"data/{split}*.parquet"))
        if files:
            return _rows(files)
    raise UserError(f"data.source {folder}: has no {' or '.join(f'{split}*.parquet' for split in splits)}")


def common_classes(*splits: Rows) -> tuple[list[str], list[np.ndarray]]:
    """The names of the classes, and each split's labels as positions in them.

    Raises:
        UserError: splits have other classes, or labels that no class has.
    """
    first = splits[0]
    found = [set(rows.labels) for rows in splits]
    if any(labels != found[0] for labels in found):
        alone = sorted(str(label) for label in set.union(*found) - set.intersection(*found))
        raise UserError(
            f"{first.files[0].parent}: classes must be the same in training and test; in one of them alone: {alone[:5]}"
        )
    known: list[Any] = sorted(found[0])
    if all(isinstance(label, int) for label in known):
        names = first.names or [str(label) for label in range(len(known))]
        if known != list(range(len(names))):
            raise UserError(
                f"{first.files[0]}: labels must be 0 to {len(names) - 1}, each in use; found {known[:3]} to {known[-1]}"
            )
        return names, [np.array(rows.labels, dtype=np.int64) for rows in splits]
    position = {label: i for i, label in enumerate(known)}
    return known, [np.array([position[label] for label in rows.labels], dtype=np.int64) for rows in splits]


def _rows(files: list[Path]) -> Rows:
    images: list[bytes] = []
    labels: list[Any] = []
    names = None
    for file in files:
        try:
            schema = pyarrow.parquet.read_schema(file)
            image, label = _columns(file, schema)
            table = pyarrow.parquet.read_table(file, columns=[image, label])
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: is not a whole parquet file ({error})") from error
        images += [row["bytes"] if isinstance(row, dict) else row for row in table[image].to_pylist()]
        labels += table[label].to_pylist()
        names = names or _names(schema, label)
    missing = next((i for i, row in enumerate(zip(images, labels, strict=True)) if None in row), None)
    if missing is not None:
        raise UserError(f"{files[0].parent}: row {missing} of {files[0].name} and its parts has no image or no label")
    return Rows(files, images, labels, names)


def _columns(file: Path, schema: pa.Schema) -> tuple[str, str]:
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [name for name in LABELS if name in schema.names]
    if len(images) != 1 or not labels:
        raise UserError(
            f"{file}: has the columns {', '.join(schema.names)}; expected one of images (binary, or a struct with "
            f"bytes) and one of labels ({', '.join(LABELS)})"
        )
    return images[0], labels[0]


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _names(schema: pa.Schema, label: str) -> list[str] | None:
    """What the hubs' metadata say of the classes."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return metadata.get("info", {}).get("features", {}).get(label, {}).get("names")
