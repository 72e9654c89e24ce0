"""Labels of ImageNet's validation images, which lie in one flat folder, from its development kit.

ILSVRC2012_devkit_t12.tar.gz holds them as ``data/ILSVRC2012_validation_ground_truth.txt``, line k
for ``ILSVRC2012_val_…k.JPEG``: a number of the kit's own, which ``data/meta.mat`` beside it turns
into the name of a class folder. A file of the same name with these names is read as well.

``meta.mat`` is of MATLAB's level 5 (MathWorks, "MAT-File Format", 2019): elements of a tag and
data, of which a matrix holds further ones. Texts, numbers and records of these are read;
everything else gives None.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason

TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
PLACES = (".", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
NUMBER = re.compile(r"(\d{1,12})\.[^.]*$")  # of an image, at the end of its name
# MATLAB's files
HEADER = 128
MATRIX, COMPRESSED, UTF8 = 14, 15, 16  # types of elements
RECORD, TEXT, NUMBERS = 2, 4, range(6, 16)  # classes of matrices
NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
NUMBER_TYPES |= {13: "u8", UTF8: "u1"}
MOST_BYTES = 1 << 28  # of one element, unpacked; the kit's has about 1 MB

Value = str | float | list[dict[str, "Value | None"]] | None


def find_truth(*folders: Path) -> Path | None:
    """The kit's file of labels in or below one of the folders, where people put it."""
    files = [folder / place / TRUTH for folder in folders for place in PLACES]
    return next((file for file in files if file.is_file()), None)


def read_truth(file: Path) -> list[str]:
    """Names of class folders, image by image.

    Raises:
        InputError: the file, or ``meta.mat`` beside it, is missing, damaged or does not fit.
    """
    try:
        lines = file.read_text("ascii").split()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); fetch it again") from error
    if not all(map(str.isdecimal, lines)):
        return lines
    table = file.with_name(SYNSETS)
    if not table.is_file():
        raise InputError(f"{file} holds the kit's numbers, which {table} explains; copy that too")
    names = _names(table)
    unknown = next((line for line in lines if float(line) not in names), None)
    if unknown is not None:
        raise InputError(f"{file} holds the number {unknown}, which {table} does not; fetch both")
    return [names[float(line)] for line in lines]


def _names(table: Path) -> dict[float, str]:
    records = read_matlab(table).get("synsets")
    if not isinstance(records, list) or not all({"ILSVRC2012_ID", "WNID"} <= {*r} for r in records):
        raise InputError(f"{table} holds no synsets with ILSVRC2012_ID and WNID; fetch it again")
    pairs = [(record["ILSVRC2012_ID"], record["WNID"]) for record in records]
    return {
        number: name
        for number, name in pairs
        if isinstance(number, float) and name.__class__ is str
    }


def truth_labels(file: Path, images: list[str], ranks: Mapping[str, int]) -> list[int | None]:
    """Labels of images by the number in their names; None where training has no such class.

    Args:
        file: the kit's.
        images: paths that end in a number, from 1.
        ranks: label of each class folder.

    Raises:
        InputError: an image without a number, or beyond the file's last line.
    """
    names = read_truth(file)
    labels = []
    for image in images:
        found = NUMBER.search(image)
        if found is None or not 1 <= int(found[1]) <= len(names):
            raise InputError(
                f"{image} has no number from 1 to {len(names)} at the end of its name, by which "
                f"{file} would label it; move one of them away"
            )
        labels.append(ranks.get(names[int(found[1]) - 1]))
    return labels


def read_matlab(file: Path) -> dict[str, Value]:
    """The variables of a file: a text, one number, or a list of records.

    Raises:
        InputError: no such file, or a damaged one.
    """
    try:
        content = file.read_bytes()
        order = {b"IM": "<", b"MI": ">"}[content[126:HEADER]]
        return dict(_Elements(content[HEADER:], order).variables())
    except DAMAGE as error:
        raise InputError(f"{file} is no MATLAB file of level 5 ({reason(error)})") from error


class _Elements:
    """Elements one after the other."""

    def __init__(self, content: bytes, order: str) -> None:
        self.stream, self.left, self.order = io.BytesIO(content), len(content), order

    def _next(self) -> tuple[int, bytes]:
        """Type and data of the next element; they fill multiples of 8 bytes but for zlib's."""
        word = self.stream.read(4)
        (number,) = struct.unpack(self.order + "I", word)
        if number >> 16:  # a small element: size, type and up to 4 bytes in 8
            size, kind = number >> 16, number & 0xFFFF
            return kind, self.stream.read(4)[:size]
        (size,) = struct.unpack(self.order + "I", self.stream.read(4))
        if size > self.left:
            raise ValueError(f"an element of {size} bytes in a file of {self.left}")
        data = self.stream.read(size)
        if number != COMPRESSED:
            self.stream.read(-size % 8)
        return number, data

    def variables(self) -> Iterator[tuple[str, Value]]:
        """Names and values of the matrices of a whole file."""
        while self.stream.tell() < self.left:
            kind, data = self._next()
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(data, MOST_BYTES)
                yield from _Elements(unpacked, self.order).variables()
            elif kind == MATRIX:
                yield _Elements(data, self.order).matrix()

    def matrix(self) -> tuple[str, Value]:
        """Name and value of one matrix."""
        flags, sizes, name = (self._numbers() for _ in range(3))
        kind, count = int(flags[0]) & 0xFF, math.prod(map(int, sizes))
        called = "".join(map(chr, name))
        if kind == RECORD:
            return called, self._records(count)
        if kind == TEXT:
            return called, "".join(map(chr, self._numbers()))
        if kind in NUMBERS and count == 1:
            return called, float(self._numbers()[0])
        return called, None

    def _numbers(self) -> np.ndarray:
        kind, data = self._next()
        return np.frombuffer(data, np.dtype(self.order + NUMBER_TYPES[kind]))

    def _records(self, count: int) -> list[dict[str, Value]]:
        (width,), letters = self._numbers(), self._numbers().tobytes()
        names = [
            letters[i : i + width].rstrip(b"\0").decode() for i in range(0, len(letters), width)
        ]
        return [{name: self._field() for name in names} for _ in range(count)]

    def _field(self) -> Value:
        kind, data = self._next()
        if kind != MATRIX:
            raise ValueError(f"a field of type {kind}")
        return _Elements(data, self.order).matrix()[1] if data else None
