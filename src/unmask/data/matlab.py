"""Arrays of MATLAB's files (level 5), as far as ImageNet's development kit needs them.

The format is MathWorks' "MAT-File Format", 2019: elements of a tag and data, of which a matrix
holds further ones. Texts, numbers and records of these are read; everything else gives None.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason

HEADER = 128
MATRIX, COMPRESSED, UTF8 = 14, 15, 16  # types of elements
RECORD, TEXT, NUMBERS = 2, 4, range(6, 16)  # classes of matrices
NUMBER_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
NUMBER_TYPES |= {13: "u8", UTF8: "u1"}
MOST_BYTES = 1 << 28  # of one element, unpacked; the kit's has about 1 MB

Value = str | float | list[dict[str, "Value | None"]] | None


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
