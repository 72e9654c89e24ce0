"""MessagePack that is walked in place: what is large stays where it lies, in a map of the file.

The msgpack package copies every array three times before a tensor can be made of it.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

DEPTH = 64  # containers inside containers; a checkpoint has about ten

SIZES = (">B", ">H", ">I")
# What each first byte begins, and its value or size: given, or read in a form of struct's.
CODES: dict[int, tuple[str, Any]] = {
    **{byte: ("constant", byte) for byte in range(0x80)},
    **{byte: ("constant", byte - 0x100) for byte in range(0xE0, 0x100)},
    **{0xC0 + n: ("constant", value) for n, value in {0: None, 2: False, 3: True}.items()},
    **{0x80 + n: ("map", n) for n in range(16)},
    **{0x90 + n: ("array", n) for n in range(16)},
    **{0xA0 + n: ("text", n) for n in range(32)},
    **{0xC4 + n: ("binary", size) for n, size in enumerate(SIZES)},
    **{0xC7 + n: ("extension", size) for n, size in enumerate(SIZES)},
    **{0xCA + n: ("number", f">{form}") for n, form in enumerate("fdBHIQbhiq")},
    **{0xD4 + n: ("extension", 1 << n) for n in range(5)},
    **{0xD9 + n: ("text", size) for n, size in enumerate(SIZES)},
    **{0xDC + n: ("array", size) for n, size in enumerate(SIZES[1:])},
    **{0xDE + n: ("map", size) for n, size in enumerate(SIZES[1:])},
}


class Extension(NamedTuple):
    """A value of a type that an application has defined.

    Args:
        code: Number of the type, as the application chose it.
        payload: Bytes of the value, a view of the data.
    """

    code: int
    payload: memoryview


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

    def value(self, depth: int) -> object:
        """The next value, at most :data:`DEPTH` deep."""
        if depth > DEPTH:
            raise ValueError(f"it is nested deeper than {DEPTH}")
        code = self.take(1)[0]
        if code not in CODES:
            raise ValueError(f"byte {code:#x} at {self.at - 1} begins no value")
        kind, given = CODES[code]
        if isinstance(given, str):
            (given,) = struct.unpack(given, self.take(struct.calcsize(given)))
        if kind in ("constant", "number"):
            return given
        if kind in ("map", "array"):
            return (self.map if kind == "map" else self.array)(given, depth)
        if kind == "extension":
            return Extension(self.take(1)[0], self.take(given))
        data = self.take(given)
        return data if kind == "binary" else str(data, "utf8", "surrogateescape")

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
