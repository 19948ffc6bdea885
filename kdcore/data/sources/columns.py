"""Find the columns of a parquet file that hold images and classes."""

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kdcore.system.errors import UserError, named, shown, suggest

LABELS = ("label", "labels", "fine_label", "class")
"""Usual names of the column that holds the class, in capitals or not."""
OTHER_PICTURES = re.compile(
    r"alpha|annotations?|depth|gradcam|ground_?truth|gt|heat_?maps?|labels?|masks?|previews?|saliency|segmentations?|seg|"
    r"superpixels?|thumb(nail)?s?"
)
"""Words in the names of columns that hold pictures, and hardly those that are to be classified."""
MOST_COLUMNS = 20
"""Most columns that a message names."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold the images and the classes; None where it is to be found out."""

    image: str | None = None
    label: str | None = None


ANY = Columns()


def find_columns(file: Path, schema: pa.Schema, wanted: Columns) -> Columns:
    """Find the columns of images and labels.

    Args:
        file: the file, for messages.
        schema: its columns.
        wanted: the names of the columns, as far as the user gives them.

    Raises:
        UserError: there is no such column, or more than one, or one of another type.
    """
    images = [wanted.image] if wanted.image else [field.name for field in schema if _is_image(field.type)]
    labels = [wanted.label] if wanted.label else [name for name in schema.names if name.lower() in LABELS]
    listed = [named(name) for name in schema.names[:MOST_COLUMNS]] + ["..."][: len(schema.names) > MOST_COLUMNS]
    has = f"{file}: has the columns {', '.join(listed)}"
    for key, name in (("image_column", wanted.image), ("label_column", wanted.label)):
        if name is not None and schema.names.count(name) != 1:
            raise UserError(
                f"{has}; data.{key} names {shown(name)}, and must name one of them.{suggest(name, schema.names)}"
            )
    if len(images) != 1 or not labels or any(schema.names.count(name) > 1 for name in (images[0], labels[0])):
        raise UserError(
            f"{has}; expected one of images (binary, or a struct with bytes) and one of labels ({', '.join(LABELS)}). "
            "Set data.image_column and data.label_column to name them"
        )
    if wanted.image is None and any(map(OTHER_PICTURES.fullmatch, re.split(r"[^a-z]+", images[0].lower()))):
        raise UserError(f"{has}; only {images[0]} holds images; set data.image_column to it, or to a column of paths")
    _check_no_parts(schema, images[0], labels[0], has)
    if len(labels) > 1:
        raise UserError(f"{has}; labels may be in {' or '.join(labels)}: set data.label_column to one of them")
    kinds = {key: schema.field(name).type for key, name in (("image", images[0]), ("label", labels[0]))}
    if not _is_image(kinds["image"]) and not is_text(kinds["image"]):
        raise UserError(
            f"{file}: column {images[0]} is of type {kinds['image']}; images are binary, structs with bytes, or paths"
        )
    if not _is_label(kinds["label"]):
        raise UserError(f"{file}: column {labels[0]} is of type {kinds['label']}; a label is a whole number or text")
    return Columns(images[0], labels[0])


def _check_no_parts(schema: pa.Schema, image: str, label: str, has: str) -> None:
    """Refuse columns whose names parquet's reader would take for a part of another column too, such as image.bytes."""
    for name in (image, label):
        whole = name.partition(".")[0]
        if whole != name and whole in schema.names:
            raise UserError(f"{has}; {name} may also be meant as a part of {whole}; rename one of the two")


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether a field may hold an image's bytes; one in which all are missing has no type."""
    return _is_image(kind) or pa.types.is_null(kind)


def _is_label(kind: pa.DataType) -> bool:
    return is_text(kind) or any(
        is_of(_value_type(kind)) for is_of in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether the values of a column are text."""
    return any(is_of(_value_type(kind)) for is_of in (pa.types.is_string, pa.types.is_large_string))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
