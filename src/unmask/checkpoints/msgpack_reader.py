"""MessagePack that is walked in place: what is large stays where it lies, in a map of the file.

The msgpack package copies every array three times before a tensor can be made of it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

DEPTH = 64  # containers inside containers; a checkpoint has about ten

NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
# Codes of sized values, with the bytes that their size takes.
BINARY = {0xC4: 1, 0xC5: 2, 0xC6: 4}
EXTENSION = {0xC7: 1, 0xC8: 2, 0xC9: 4}
FIXED_EXTENSION = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
ARRAY = {0xDC: 2, 0xDD: 4}
MAP = {0xDE: 2, 0xDF: 4}


class Extension(NamedTuple):
    """A value of a type that an application has defined."""

    code: int
    """Its type."""
    payload: memoryview
    """Its bytes, where they lie."""


def unpack(data: memoryview) -> object:
    """The one value that fills ``data``: dicts, lists, numbers, text, and views of bytes.

    Raises:
        ValueError: when it is no MessagePack, ends early, goes on after it, or is nested deeper
            than :data:`DEPTH`. Nothing is allocated for a size that the data does not have.
    """
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes follow its end")
    return value


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> memoryview:
        """The next bytes; ValueError where there are fewer."""
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def size(self, width: int) -> int:
        """The next big-endian number of so many bytes."""
        return int.from_bytes(self.take(width), "big")

    def value(self, depth: int) -> object:
        """The next value, at most :data:`DEPTH` deep."""
        if depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH}")
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0x90 or code in MAP:
            return self.map(code - 0x80 if code < 0x90 else self.size(MAP[code]), depth)
        if code < 0xA0 or code in ARRAY:
            return self.array(code - 0x90 if code < 0xA0 else self.size(ARRAY[code]), depth)
        if code < 0xC0 or code in TEXT:
            size = code - 0xA0 if code < 0xC0 else self.size(TEXT[code])
            return str(self.take(size), "utf8", "surrogateescape")
        if code in CONSTANTS:
            return CONSTANTS[code]
        if code in NUMBERS:
            form = NUMBERS[code]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if code in BINARY:
            return self.take(self.size(BINARY[code]))
        if code in EXTENSION or code in FIXED_EXTENSION:
            width = FIXED_EXTENSION.get(code)
            length = self.size(EXTENSION[code]) if width is None else width
            return Extension(self.take(1)[0], self.take(length))
        raise ValueError(f"byte {code:#x} at {self.at - 1} begins no value")

    def map(self, count: int, depth: int) -> dict[object, object]:
        """A mapping of so many entries; ValueError for keys of other types than text or int."""
        found: dict[object, object] = {}
        for _ in range(self.bounded(count)):
            key = self.value(depth + 1)
            if not isinstance(key, (str, int)):
                raise ValueError(f"a key is a {type(key).__name__}")
            found[key] = self.value(depth + 1)
        return found

    def array(self, count: int, depth: int) -> list[object]:
        """A list of so many values."""
        return [self.value(depth + 1) for _ in range(self.bounded(count))]

    def bounded(self, count: int) -> int:
        """The count, which the bytes that are left can hold; else ValueError."""
        if count > len(self.data) - self.at:  # each value takes a byte at least
            raise ValueError(f"{count} values do not fit into it")
        return count
