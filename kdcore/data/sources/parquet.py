"""Read parquet files of encoded images and labels, in the layout of the common hubs."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from kdcore.data.dataset import Encoded, Split
from kdcore.data.sources.folders import check_images, decode_images
from kdcore.system.errors import UserError, named

LABELS = ("label", "labels", "fine_label", "class")
"""Names of the column that holds the class; the first one that is there counts."""


LAYOUTS = ("{}*.parquet", "data/{}*.parquet", "{}/*.parquet", "*/{}/*.parquet")
"""Patterns of a split's files; the first one that matches counts."""
UNLABELLED = -1
"""The label that the hubs give to test images whose classes are secret."""
BATCH_ROWS = 256
MOST_COLUMNS = 20
"""Most columns that a message names."""
LARGEST_RATIO, FREE = 100, 2**30
"""Images may be so many times as large as their file, or so many bytes: encoded images hardly shrink, so a file that
stands for more repeats an image many times."""


@dataclass(frozen=True)
class Contents:
    """The images of a split, each the content of an image file."""

    chunks: pa.ChunkedArray
    """The images, of type large_binary."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.chunks)

    def __getitem__(self, position: int, /) -> bytes:
        """Return the content of one image file."""
        content: bytes = self.chunks[position].as_py()
        return content


@dataclass(frozen=True)
class Rows:
    """Images and labels of one split."""

    files: list[Path]
    images: Contents
    labels: list[int] | list[str]
    names: list[str] | None
    """Names of the classes, if labels are numbers and the file holds the names."""

    def name(self, position: int) -> str:
        """Name an image, for messages."""
        return f"{self.files[0].parent}: image {position} of {', '.join(file.name for file in self.files)}"

    def decode(self, labels: np.ndarray, side: int, *, resize: bool = True) -> Split:
        """Decode the images into a split in memory; `folders.decode_images` explains arguments and errors."""
        return Split(decode_images(self.images, side, self.name, resize=resize), labels)

    def encoded(self, labels: np.ndarray) -> Encoded:
        """Make a split that is decoded later, after checking the header of every image."""
        check_images(self.images, self.name)
        return Encoded(pa.table({"image": self.images.chunks, "label": labels}))


def find(folder: Path, split: str) -> list[Path]:
    """List the files of a split in the first of `LAYOUTS` that has any.

    Raises:
        UserError: they are in several folders.
    """
    for layout in LAYOUTS:
        files = sorted(file for file in folder.glob(layout.format(split)) if file.is_file())
        parents = sorted({file.parent for file in files})
        if len(parents) > 1:
            raise UserError(
                f"data.source {folder}: has {split} files in several folders, {', '.join(map(str, parents))}; name the "
                "one above the folder that you want"
            )
        if files:
            return files
    return []


def read(folder: Path, splits: Sequence[str]) -> Rows:
    """Read the rows of the first of these splits that a folder holds with labels.

    Args:
        folder: which has a split's files in one of `LAYOUTS`.
        splits: beginnings of the names of files, or names of folders.

    Raises:
        UserError: no such files, or files without one column of images and one of labels.
    """
    unlabelled = []
    for split in splits:
        files = find(folder, split)
        if not files:
            continue
        labels = [label for file in files for label in _labels(file)]
        if labels and all(label == UNLABELLED for label in labels):
            unlabelled.append(str(files[0]))
            continue
        return _rows(files, labels)
    wanted = " or ".join(f"{split}*.parquet" for split in splits)
    if unlabelled:
        raise UserError(
            f"{unlabelled[0]}: has no labels ({UNLABELLED} everywhere); of {wanted} one with labels is needed"
        )
    raise UserError(f"data.source {folder}: has no {wanted}, neither there nor below data/, <split>/ or */<split>/")


def common_classes(*splits: Rows) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the classes, and each split's labels as positions in them.

    Raises:
        UserError: splits have other classes, labels that no class has, or one name for two classes.
    """
    first = splits[0]
    label_sets = [set(rows.labels) for rows in splits]
    if any(labels != label_sets[0] for labels in label_sets):
        alone = sorted(str(label) for label in set.union(*label_sets) - set.intersection(*label_sets))
        raise UserError(
            f"{first.files[0].parent}: classes must be the same in training and test; in one of them alone: {alone[:5]}"
        )
    known: list[Any] = sorted(label_sets[0])
    if all(isinstance(label, int) for label in known):
        names = first.names or [str(label) for label in range(len(known))]
        if known != list(range(len(names))):
            raise UserError(f"{first.files[0]}: {_misfit(known, first.names)}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(
                f"{first.files[0]}: names several classes {', '.join(map(named, twice[:5]))}; "
                "write files with different names of the classes, or with none"
            )
        return names, [np.array(rows.labels, dtype=np.int64) for rows in splits]
    position = {label: i for i, label in enumerate(known)}
    return known, [np.array([position[label] for label in rows.labels], dtype=np.int64) for rows in splits]


def _misfit(known: list[int], names: list[str] | None) -> str:
    """Say what is wrong with labels that do not fit the classes."""
    if names is None:
        return f"labels must be 0 to {len(known) - 1}, each in use; found {known[:3]} to {known[-1]}"
    beyond = [label for label in known if not 0 <= label < len(names)]
    if beyond:
        return f"names {len(names)} classes, labels 0 to {len(names) - 1}, but has images with the labels {beyond[:5]}"
    unused = [name for label, name in enumerate(names) if label not in set(known)]
    return (
        f"names {len(names)} classes, but no image is of {', '.join(unused[:5])}{' ...' if len(unused) > 5 else ''}; "
        "write files with the names of the classes in use alone, labels numbered anew from 0, or labels as text"
    )


def _rows(files: list[Path], labels: list[Any]) -> Rows:
    chunks = [chunk for file in files for chunk in _images(file)]
    images = pa.chunked_array(chunks, pa.large_binary())
    missing = next((i for i, label in enumerate(labels) if label is None), None)
    if images.null_count:
        first = images.is_null().index(True).as_py()
        missing = first if missing is None else min(first, missing)
    if missing is not None:
        raise UserError(f"{files[0].parent}: row {missing} of {files[0].name} and its parts has no image or no label")
    names = next(filter(None, map(_names, files)), None)
    return Rows(files, Contents(images), labels, names)


def _images(file: Path) -> Iterator[pa.Array]:
    """Read the column of images in the file's parts: one array could not hold more than 2 GiB."""
    most, received = max(FREE, LARGEST_RATIO * file.stat().st_size), 0
    with _opened(file) as content:
        column, _ = _columns(file, content.schema_arrow)
        for group in range(content.num_row_groups):  # all at once, the reader would keep them all, still compressed
            for batch in content.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                array = batch.column(0)
                if pa.types.is_struct(array.type):
                    array = pa.compute.struct_field(array, "bytes")
                received += array.nbytes
                if received > most:
                    raise UserError(
                        f"{file}: stands for more than {most:,} bytes of images, though it has "
                        f"{file.stat().st_size:,}; get it anew, or write it without images that are the same"
                    )
                yield array.cast(pa.large_binary())


def _labels(file: Path) -> list[Any]:
    with _opened(file) as content:
        _, column = _columns(file, content.schema_arrow)
        labels: list[Any] = content.read(columns=[column]).column(0).to_pylist()
    return labels


def _names(file: Path) -> list[str] | None:
    """Return the names of the classes in the hubs' metadata; None if there are none, or in another form."""
    with _opened(file) as content:
        schema = content.schema_arrow
    _, label = _columns(file, schema)
    try:
        names: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", label, "names"):
        names = names.get(key) if isinstance(names, dict) else None
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_names else None


@contextmanager
def _opened(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(file) as content:
            yield content
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: is not a whole parquet file ({error}); get it anew") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: holds text that is not UTF-8 ({error}); write labels and names in UTF-8") from error


def _columns(file: Path, schema: pa.Schema) -> tuple[str, str]:
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [name for name in LABELS if name in schema.names]
    if len(images) != 1 or not labels or any(schema.names.count(name) > 1 for name in (images[0], labels[0])):
        names = [named(name) for name in schema.names[:MOST_COLUMNS]] + ["..."][: len(schema.names) > MOST_COLUMNS]
        raise UserError(
            f"{file}: has the columns {', '.join(names)}; expected one of images (binary, or a struct with "
            f"bytes) and one of labels ({', '.join(LABELS)})"
        )
    kind = schema.field(labels[0]).type
    if not _is_label(kind):
        raise UserError(f"{file}: column {labels[0]} is of type {kind}; a label is a whole number or text")
    return images[0], labels[0]


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(
            field.name == "bytes" and not pa.types.is_struct(field.type) and _is_image(field.type) for field in kind
        )
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_label(kind.value_type)
    return any(
        is_of(kind)
        for is_of in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    )
