"""Parquet files with a column of images and one of labels, as the Hugging Face hub keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unmask.data.classes import CLASSES_FILE, check_class_names
from unmask.data.decoding import UnreadableImageError, reading
from unmask.data.open_files import Kept, OpenFiles
from unmask.data.parquet_columns import Columns, choose_columns
from unmask.data.reader import ShardReader
from unmask.data.split import Split
from unmask.errors import InputError
from unmask.files.damage import reason
from unmask.text import some

KEPT_GROUPS = 8  # decoded-to-memory row groups; shuffled reading of more data wants a latent cache
# What pyarrow raises on damaged files and pages.
PARQUET_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError)


class Row(NamedTuple):
    """Where one image lies."""

    file: int
    group: int
    row: int


class _Table(NamedTuple):
    """What one file holds, without its images."""

    columns: Columns
    names: tuple[str, ...]  # of the classes that the labels count, empty if the file tells none
    places: list[tuple[int, int]]  # group and row
    labels: list[int | None]


def _read_table(file: Path, listed: Sequence[str]) -> _Table:
    """The labels of a file and the names that it has for them, unless ``listed`` replaces these."""
    try:
        with pq.ParquetFile(file) as opened:
            columns = choose_columns(opened.schema_arrow, file)
            rows = opened.metadata.num_rows
            if not 0 <= rows <= file.stat().st_size:
                raise ValueError(f"it states {rows} rows and has {file.stat().st_size} bytes")
            places, labels = _rows(opened, columns)
    except InputError:
        raise
    except PARQUET_DAMAGE as error:
        refused = isinstance(error, OSError) and error.errno is not None
        way = "check the disk and your rights" if refused else "fetch it again"
        raise InputError(f"{file} cannot be read as Parquet ({reason(error)}); {way}") from error
    try:
        names = () if columns.names is None else check_class_names(columns.names, str(file))
    except InputError as error:
        if not listed:
            raise InputError(f"{error}; or name the classes in a {CLASSES_FILE} beside") from None
        names = ()
    return _Table(columns, names, places, labels)


def _rows(
    opened: pq.ParquetFile, columns: Columns
) -> tuple[list[tuple[int, int]], list[int | None]]:
    places: list[tuple[int, int]] = []
    labels: list[int | None] = []
    for group in range(opened.num_row_groups):
        count = opened.metadata.row_group(group).num_rows
        if columns.label is None:
            labels += [None] * count
        else:
            table = opened.read_row_group(group, [columns.label], use_threads=False)
            labels += table[columns.label].to_pylist()
        places += [(group, row) for row in range(count)]
    if len(labels) != len(places):
        raise ValueError(f"{len(labels)} labels for {len(places)} rows")
    return places, labels


def _joined_names(
    tables: Sequence[_Table], files: Sequence[Path], listed: tuple[str, ...]
) -> tuple[str, ...]:
    """Names of the classes of all files, in the order of the list or of their appearance."""
    named = {file: table.names for file, table in zip(files, tables, strict=True) if table.names}
    joined = listed or tuple(dict.fromkeys(name for names in named.values() for name in names))
    for file, names in named.items():
        if strange := [name for name in names if name not in joined]:
            raise InputError(
                f"{file} has a class {strange[0]!r}, which {CLASSES_FILE} beside it does not name"
            )
    numbered = [file for file, t in zip(files, tables, strict=True) if t.columns.label]
    bare = [file for file in numbered if file not in named]
    if named and bare and not listed:
        raise InputError(
            f"{next(iter(named))} names its classes and {bare[0]} does not; write a {CLASSES_FILE}"
        )
    return joined


def _renumbered(table: _Table, names: tuple[str, ...], file: Path) -> list[int | None]:
    """The labels of a file as numbers of the joined classes."""
    if not table.names or table.names == names:
        return table.labels
    ranks = {name: rank for rank, name in enumerate(names)}
    numbers: dict[int | None, int | None] = {None: None, -1: -1}
    numbers |= {label: ranks[name] for label, name in enumerate(table.names)}
    if strange := [label for label in table.labels if label not in numbers]:
        raise InputError(
            f"{file} has the label {strange[0]} but only {len(table.names)} class names"
        )
    return [numbers[label] for label in table.labels]


class ParquetImages(ShardReader[Row]):
    """Images of Parquet files, one row group at a time in memory.

    Class names come from a ``classes.json`` beside the files, else from the hub's notes inside
    them; labels of files that name their classes are joined by name.

    Args:
        path: a file, or a folder of files, or one with a single folder of them, as on the hub.
        split: ``train-*`` or ``validation-*`` (val, valid, test) where both exist.

    Raises:
        InputError: a damaged file, no column of encoded images, or labels that are incomplete or
            cannot be joined.
    """

    kind = "Parquet files (*.parquet with a column 'image')"

    def __init__(self, path: Path, split: Split) -> None:
        super().__init__(path, split)
        tables = [_read_table(file, self.listed) for file in self.files]
        names = _joined_names(tables, self.files, self.listed)
        labels = [_renumbered(t, names, f) for t, f in zip(tables, self.files, strict=True)]
        places = [[Row(n, *place) for place in t.places] for n, t in enumerate(tables)]
        self.take(places, labels, names)
        self.notes += _notes(tables)
        self._columns = [table.columns.image for table in tables]
        self._open = OpenFiles(pq.ParquetFile)
        self._groups = Kept[tuple[int, int], pa.ChunkedArray]()

    @staticmethod
    def find(path: Path) -> list[Path]:
        """``path`` itself, or the files in the folder ``path`` or in the one folder of them in it.

        Raises:
            InputError: several folders hold some.
        """
        if path.is_file():
            return [path] if path.suffix == ".parquet" else []
        if here := sorted(path.glob("[!.]*.parquet")) or sorted(path.glob("data/[!.]*.parquet")):
            return here
        below = sorted(path.glob("[!.]*/*.parquet"))
        folders = {file.parent for file in below}
        if len(folders) > 1:
            raise InputError(
                f"{path} holds Parquet files in {len(folders)} folders "
                f"({some((folder.name for folder in folders), 5)}); give one of them"
            )
        return below

    def key(self, row: int) -> str:
        """File, row group and row, as in ``train-00000.parquet[0][17]``."""
        place = self.places[row]
        return f"{self.files[place.file].name}[{place.group}][{place.row}]"

    def content(self, row: int) -> bytes:
        """The bytes of the image.

        Raises:
            UnreadableImageError: they are missing, or their part of the file is damaged or gone.
        """
        place = self.places[row]
        with reading(self.key(row), PARQUET_DAMAGE):
            key = place.file, place.group
            group = self._groups.get(key, lambda: self._group(*key), KEPT_GROUPS)
            value = group[place.row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            path = f", only the path {value['path']!r}" if value and value.get("path") else ""
            raise UnreadableImageError(self.key(row), f"no bytes are stored for it{path}")
        return content

    def stamp(self, row: int) -> tuple[int, ...]:
        """Bytes and time of the file as it was opened, and the image's place in it."""
        place = self.places[row]
        return *self.stamps[place.file], place.group, place.row

    def _group(self, file: int, group: int) -> pa.ChunkedArray:
        column = self._columns[file]
        table = self._open(self.files[file]).read_row_group(group, [column], use_threads=False)
        return table[column]


def _notes(tables: Sequence[_Table]) -> list[str]:
    """What was chosen where it is not ``image`` and ``label``, and which columns are not used."""
    first = tables[0].columns
    notes = []
    if first.image != "image":
        notes.append(f"the images are the column {first.image!r}")
    if first.label not in ("label", None):
        notes.append(f"the labels are the column {first.label!r}")
    if first.unused:
        notes.append(f"columns that are not used: {', '.join(first.unused)}")
    return notes
