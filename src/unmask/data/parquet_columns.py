"""The columns of a Parquet file that hold images and labels, by type, name and the hub's note.

The hub's libraries write a JSON note into each file (key ``huggingface`` of the schema's metadata)
that tells the features' types and the names of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from unmask.errors import InputError
from unmask.files.json_files import parse_json

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp")  # the first that is there
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")  # likewise


class Columns(NamedTuple):
    """What is read of a file.

    Args:
        image: Name of the column of images.
        label: Name of the column of labels; None if there is none.
        names: What the note says the classes are called, unchecked; None if it says nothing.
        unused: Other columns.
    """

    image: str
    label: str | None
    names: object
    unused: tuple[str, ...]


def choose_columns(schema: pa.Schema, file: Path) -> Columns:
    """The columns of images and labels.

    Of several columns that could hold the images the first of :data:`IMAGE_NAMES` is taken, of
    labels the first of :data:`LABEL_NAMES`; a column by another name only where it is the only one.

    Raises:
        InputError: no column holds encoded images, it is not clear which one does, or the labels
            are no integers.
    """
    features = _features(schema, file)
    encoded = [field.name for field in schema if _holds_bytes(field.type)]
    image = _chosen(encoded, IMAGE_NAMES)
    if image is None:
        raise InputError(_why_no_image(schema, encoded, file))
    classes = [name for name in schema.names if _kind(features.get(name)) == "ClassLabel"]
    known = [name for name in LABEL_NAMES if name in schema.names]
    label = next(iter(known), _chosen(classes, LABEL_NAMES))
    if label is not None and not pa.types.is_integer(schema.field(label).type):
        kind = schema.field(label).type
        raise InputError(f"{file}: column {label!r} is of type {kind}; it must be an integer")
    noted = features.get(label or "")
    names = noted.get("names") if isinstance(noted, Mapping) else None
    return Columns(image, label, names, tuple(n for n in schema.names if n not in (image, label)))


def _chosen(candidates: Sequence[str], known: Sequence[str]) -> str | None:
    """The first by a known name, else the only one."""
    by_name = [name for name in known if name in candidates]
    return next(iter(by_name), candidates[0] if len(candidates) == 1 else None)


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether values are bytes, or records with a field ``bytes``."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _why_no_image(schema: pa.Schema, encoded: Sequence[str], file: Path) -> str:
    if encoded:
        return (
            f"{file} has several columns that may hold images ({', '.join(encoded)}); "
            "call the one meant 'image'"
        )
    named = next((name for name in IMAGE_NAMES if name in schema.names), None)
    if named is None:
        return f"{file} has no column of encoded images (only {', '.join(schema.names)})"
    return (
        f"{file}: no bytes are stored in column {named!r}, which is of type "
        f"{schema.field(named).type}; write the image files' bytes into it, or give a folder of "
        "the images"
    )


def _features(schema: pa.Schema, file: Path) -> Mapping[str, object]:
    """The features of the hub's note; empty when it has another shape."""
    found = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"), f"the note in {file}")
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _kind(feature: object) -> object:
    return feature.get("_type") if isinstance(feature, Mapping) else None
