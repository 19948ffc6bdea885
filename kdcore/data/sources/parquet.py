"""Read parquet files of encoded images and labels, in the layout of the common hubs."""

import json
import os
import sys
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
from kdcore.data.sources import shards
from kdcore.data.sources.columns import ANY, Columns, find_columns, is_text
from kdcore.data.sources.contents import say_left_out
from kdcore.data.sources.folders import LARGEST, check_images, decode_images
from kdcore.data.sources.splits import composed
from kdcore.system.errors import UserError, named, shown
from kdcore.system.pointers import file_stands_for_another

UNLABELLED = -1
"""The label that the hubs give to test images whose classes are secret."""
OTHER_NAMES = "numbers would mean other classes; write all files with the same names"
"""What to do about files that name other classes."""
BATCH_ROWS = 256
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

    files: dict[Path, int]
    """File -> how many rows it has."""
    images: Contents
    labels: list[int] | list[str]
    names: list[str] | None
    """Names of the classes, if labels are numbers and the files hold the names."""
    label: str
    """The column of the labels."""

    def name(self, position: int) -> str:
        """Name an image, for messages."""
        return _place("image", position, self.files)

    def decode(self, labels: np.ndarray, side: int, *, resize: bool = True) -> Split:
        """Decode the images into a split in memory; `folders.decode_images` explains arguments and errors."""
        return Split(decode_images(self.images, side, self.name, resize=resize), labels)

    def encoded(self, labels: np.ndarray) -> Encoded:
        """Make a split that is decoded later, after checking the header of every image."""
        check_images(self.images, self.name)
        return Encoded(pa.table({"image": self.images.chunks, "label": labels}))


def read(folder: Path, *splits: Sequence[str], columns: Columns = ANY) -> Rows:
    """Read the rows of the first of these splits that a folder holds with labels.

    Args:
        folder: where `shards.find` looks for files.
        splits: the names that each split may have.
        columns: which columns to read.

    Raises:
        UserError: no such files, not all of a split, or files without one column of images and one of labels.
    """
    unlabelled = []
    for names in splits:
        files = shards.find(folder, names)
        if not files:
            continue
        found = _check_columns(files, columns)
        of_file = {file: _labels(file, found.label) for file in files}
        labels = [label for of_one in of_file.values() for label in of_one]
        if labels and all(label in (UNLABELLED, None) for label in labels):
            unlabelled.append(str(files[0]))
            continue
        return _rows({file: len(of_one) for file, of_one in of_file.items()}, labels, found, folder)
    wanted = " or ".join(f"{names[0]}-*.parquet" for names in splits)
    if unlabelled:
        raise UserError(
            f"{unlabelled[0]}: has no labels ({UNLABELLED} or nothing everywhere); of {wanted} one with labels is "
            "needed"
        )
    near = [name for names in splits for name in shards.alike(folder, names)]
    hint = f". {', '.join(near[:5])}: the name of a split ends at - or .; rename what belongs to it" if near else ""
    raise UserError(
        f"data.source {folder}: has no {wanted}, neither there nor in a folder there, nor a folder {splits[0][0]}{hint}"
    )


def check_together(folder: Path, train: Rows, test: Rows) -> None:
    """Refuse splits that may be of different data sets, and say on stderr which files are of neither.

    Raises:
        UserError: they are in different folders.
    """
    one, two = list(train.files), list(test.files)
    shards.check_together(folder, one, two)
    others = shards.left_out(folder, one, two)
    say_left_out([str(file.relative_to(folder)) for file in others], f"data.source {folder}")


def _place(what: str, position: int, files: dict[Path, int]) -> str:
    """Name a row among those of several files: its file, and its place in that file."""
    for file, count in files.items():
        if position < count:
            return f"{file.parent}: {what} {position} of {file.name}"
        position -= count
    raise IndexError(position)


def common_classes(*splits: Rows) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the classes, and each split's labels as positions in them.

    Raises:
        UserError: splits have other classes, labels that no class has, or one name for two classes.
    """
    first = next(iter(splits[0].files))
    _check_alike(
        {next(iter(rows.files)): rows.label for rows in splits}, "takes labels from column", "set data.label_column"
    )
    named_ones = {next(iter(rows.files)): rows.names for rows in splits if rows.names is not None}
    _check_alike(named_ones, "names the classes", OTHER_NAMES)
    label_sets = [set(rows.labels) for rows in splits]
    if any(labels != label_sets[0] for labels in label_sets):
        alone = sorted(str(label) for label in set.union(*label_sets) - set.intersection(*label_sets))
        raise UserError(
            f"{first.parent}: classes must be the same in training and test; in one of them alone: {alone[:5]}"
        )
    known: list[Any] = sorted(label_sets[0])
    if all(isinstance(label, int) for label in known):
        given = next(iter(named_ones.values()), None)
        names = given or [str(label) for label in range(len(known))]
        if known != list(range(len(names))):
            raise UserError(f"{first}: {_misfit(known, given)}")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(
                f"{first}: names several classes {', '.join(map(named, twice[:5]))}; "
                "write files with different names of the classes, or with none"
            )
        return names, [np.array(rows.labels, dtype=np.int64) for rows in splits]
    stripped = Counter(label.strip() for label in known)
    twice = [label for label in known if stripped[label.strip()] > 1]
    if twice:
        raise UserError(
            f"{first.parent}: the labels {', '.join(map(shown, twice[:5]))} differ in spaces alone; write "
            "each class in one way"
        )
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


def _check_columns(files: list[Path], wanted: Columns) -> Columns:
    """Return the columns that all files of a split have, with labels of one kind."""
    found, kinds = {}, {}
    for file in files:
        with _opened(file) as content:
            schema, count = content.schema_arrow, content.metadata.num_rows
        columns = find_columns(file, schema, wanted)
        found[file] = columns
        if count:
            kinds[file] = "text" if is_text(schema.field(columns.label).type) else "numbers"
    if not kinds:
        raise UserError(f"{files[0]}: holds no rows{', nor do its other parts' * (len(files) > 1)}; get it anew")
    for file in files:
        if file not in kinds:
            print(f"{file}: holds no rows", file=sys.stderr)
    _check_alike(
        {file: columns.image for file, columns in found.items()}, "has images in column", "set data.image_column"
    )
    _check_alike(
        {file: columns.label for file, columns in found.items()}, "has labels in column", "set data.label_column"
    )
    _check_alike(kinds, "has labels that are", "write all files alike")
    return found[files[0]]


def _check_alike(values: dict[Path, Any], what: str, remedy: str) -> None:
    """Refuse files that differ in a value."""
    for file, value in values.items():
        first, expected = next(iter(values.items()))
        if value != expected:
            raise UserError(f"{file}: {what} {shown(value)}, but {first}: {shown(expected)}; {remedy}")


def _rows(files: dict[Path, int], labels: list[Any], columns: Columns, root: Path) -> Rows:
    chunks = [chunk for file in files for chunk in _images(file, str(columns.image), root)]
    images = pa.chunked_array(chunks, pa.large_binary())
    missing = next((i for i, label in enumerate(labels) if label is None or not str(label).strip()), None)
    if images.null_count:
        first = images.is_null().index(True).as_py()
        missing = first if missing is None else min(first, missing)
    if missing is not None:
        raise UserError(f"{_place('row', missing, files)} has no image or no label; write the file without it")
    names = {file: found for file in files if (found := _names(file, str(columns.label))) is not None}
    _check_alike(names, "names the classes", OTHER_NAMES)
    return Rows(files, Contents(images), labels, next(iter(names.values()), None), str(columns.label))


def _images(file: Path, column: str, root: Path) -> Iterator[pa.Array]:
    """Read the column of images in the file's parts: one array could not hold more than 2 GiB."""
    most, received, total = max(FREE, LARGEST_RATIO * file.stat().st_size), 0, 0
    with _opened(file) as content:
        for group in range(content.num_row_groups):  # all at once, the reader would keep them all, still compressed
            for batch in content.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                array, paths = _parts(batch.column(0))
                received += array.nbytes
                if received > most:
                    raise UserError(
                        f"{file}: stands for more than {most:,} bytes of images, though it has "
                        f"{file.stat().st_size:,}; get it anew, or write it without images that are the same"
                    )
                found = array.cast(pa.large_binary()) if paths is None else _with_files(array, paths, file, root)
                total += 0 if paths is None else found.nbytes
                if total > LARGEST:
                    raise UserError(
                        f"{file}: stands for more than {LARGEST:,} bytes of images, too many to keep in memory; put "
                        "them into folders, one per class, and name those with folder:"
                    )
                yield found


def _parts(column: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return the bytes of images, and the paths of those without bytes; None if there are none."""
    if is_text(column.type):
        return pa.nulls(len(column)), column
    if not pa.types.is_struct(column.type):
        return column, None
    found, fields = pa.compute.struct_field(column, "bytes"), [field.name for field in column.type]
    if not found.null_count or "path" not in fields or not is_text(column.type.field("path").type):
        return found, None
    return found, pa.compute.struct_field(column, "path")


def _with_files(images: pa.Array, paths: pa.Array, file: Path, root: Path) -> pa.Array:
    """Read the files that stand for images without bytes, which lie beside the parquet file or below the source."""
    contents = [
        _content(path, file, root) if image is None and path else image
        for image, path in zip(images.to_pylist(), paths.to_pylist(), strict=True)
    ]
    return pa.array(contents, pa.large_binary())


def _content(path: str, file: Path, root: Path) -> bytes:
    """Read the file that a path in a parquet file names."""
    inside = not Path(path).is_absolute() and ".." not in Path(path).parts
    there = [place / path for place in (file.parent, root) if inside]
    found = next(filter(os.path.isfile, there), None)  # Path.is_file() raises errors for names that are too long
    if found is None:
        raise UserError(
            f"{file}: has no bytes of an image but its path, {shown(path)}, "
            f"{'and there is no such file' if inside else 'which is not'} below {file.parent} or {root}; put the "
            "images there, or write the file with the images' bytes"
        )
    try:
        return found.read_bytes()
    except OSError as error:
        raise UserError(f"{found}: cannot be read ({error.strerror}); see its permissions") from error


def _labels(file: Path, column: str | None) -> list[Any]:
    with _opened(file) as content:
        labels: list[Any] = content.read(columns=[column]).column(0).to_pylist()
    return [composed(label) if isinstance(label, str) else label for label in labels]


def _names(file: Path, column: str) -> list[str] | None:
    """Return the names of the classes in the hubs' metadata; None if there are none, or in another form."""
    with _opened(file) as content:
        schema = content.schema_arrow
    try:
        names: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", column, "names"):
        names = names.get(key) if isinstance(names, dict) else None
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [composed(name) for name in names] if is_names else None


@contextmanager
def _opened(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.parquet.ParquetFile(file) as content:
            yield content
    except (pa.ArrowException, OSError) as error:
        pointer = file_stands_for_another(file)
        raise UserError(f"{file}: {pointer or f'is not a whole parquet file ({error}); get it anew'}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: holds text that is not UTF-8 ({error}); write labels and names in UTF-8") from error
