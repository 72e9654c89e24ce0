"""Parquet files with an ``image`` and a ``label`` column, as the Hugging Face hub keeps them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unmask.data.classes import names_for, read_class_names
from unmask.data.decoding import UnreadableImageError, decode_image
from unmask.data.reader import ShardReader
from unmask.data.split import Split
from unmask.errors import InputError

KEPT_GROUPS = 8  # decoded-to-memory row groups; shuffled reading of more data wants a latent cache


class Row(NamedTuple):
    """Where one image lies."""

    file: int
    group: int
    row: int


def _open(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as Parquet ({reason}); fetch it again") from error
    if "image" not in opened.schema_arrow.names:
        columns = ", ".join(opened.schema_arrow.names)
        raise InputError(f"{file} has no column 'image' (only {columns}); rename the one meant")
    return opened


def _hub_names(opened: pq.ParquetFile) -> tuple[str, ...]:
    note = json.loads((opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    label = note.get("info", {}).get("features", {}).get("label", {})
    return tuple(label.get("names", ()))


def _rows(opened: pq.ParquetFile, number: int, file: Path) -> list[tuple[Row, int | None]]:
    columns = opened.schema_arrow
    labelled = "label" in columns.names
    if labelled and not pa.types.is_integer(columns.field("label").type):
        kind = columns.field("label").type
        raise InputError(f"{file}: column 'label' is of type {kind}; it must be an integer")
    rows = []
    for group in range(opened.num_row_groups):
        count = opened.metadata.row_group(group).num_rows
        table = opened.read_row_group(group, ["label"], use_threads=False) if labelled else None
        labels = table["label"].to_pylist() if table else [None] * count
        rows += [(Row(number, group, i), label) for i, label in enumerate(labels)]
    return rows


class ParquetImages(ShardReader[Row]):
    """Images of Parquet files, one row group at a time in memory.

    Args:
        path: a file, or a folder of files (or with a ``data`` folder of files). Class names come
            from the hub's note inside the file, else from ``classes.json`` beside it.
        split: ``train-*`` or ``validation-*`` (val, valid, test) where both exist.

    Raises:
        InputError: a damaged file, a missing column, or incomplete labels.
    """

    kind = "Parquet files (*.parquet with a column 'image')"

    def __init__(self, path: Path, split: Split) -> None:
        super().__init__(path, split)
        opened = [_open(file) for file in self.files]
        rows = [row for i, file in enumerate(self.files) for row in _rows(opened[i], i, file)]
        self.places, self.labels = [place for place, _ in rows], [label for _, label in rows]
        names = _hub_names(opened[0]) or read_class_names(self.files[0].parent)
        self.class_names = names_for(self.labels, names, where=str(path))
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Without the row groups in memory: another process reads its own."""
        state = {**self.__dict__, "_groups": OrderedDict()}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore in another process."""
        self.__dict__.update(state, _lock=threading.Lock())

    @staticmethod
    def find(path: Path) -> list[Path]:
        """``path`` itself, or the files in the folder ``path`` or its ``data`` folder, sorted."""
        if path.suffix == ".parquet" and path.is_file():
            return [path]
        return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))

    def key(self, row: int) -> str:
        """File, row group and row, as in ``train-00000.parquet[0][17]``."""
        place = self.places[row]
        return f"{self.files[place.file].name}[{place.group}][{place.row}]"

    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            UnreadableImageError: its bytes are damaged or missing.
        """
        place = self.places[row]
        value = self._group(place.file, place.group)[place.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UnreadableImageError(self.key(row), "no bytes are stored for it")
        return decode_image(content, self.key(row))

    def _group(self, file: int, group: int) -> pa.ChunkedArray:
        with self._lock:
            if (file, group) not in self._groups:
                opened = pq.ParquetFile(self.files[file])
                table = opened.read_row_group(group, ["image"], use_threads=False)
                self._groups[file, group] = table["image"]
                while len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
            return self._groups[file, group]
