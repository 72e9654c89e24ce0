"""The flax decoder refuses what is not flax; what it reads is golden data in tests/parity."""

from __future__ import annotations

import msgpack
import pytest
import torch

from unmask.checkpoints.flax import decode_flax, flatten
from unmask.errors import InputError


def array(shape: list[int], dtype: str, raw: bytes) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb([shape, dtype, raw]))


def test_arrays_keep_dtype_shape_and_order() -> None:
    raw = torch.arange(6, dtype=torch.int16).numpy().tobytes()
    tree = decode_flax(msgpack.packb({"a": {"b": array([2, 3], "int16", raw)}}))
    leaf = flatten(tree)["a/b"]
    assert leaf.dtype == torch.int16
    assert leaf.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_chunks_are_joined_in_numeric_order() -> None:
    chunks = {str(i): array([1], "uint8", bytes([i])) for i in reversed(range(12))}
    stored = {"__msgpack_chunked_array__": True, "shape": {"0": 3, "1": 4}, "chunks": chunks}
    joined = decode_flax(msgpack.packb({"x": stored}))["x"]
    assert joined.tolist() == torch.arange(12).view(3, 4).tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a flax msgpack file"),
        (b"\x81\xa1a", "is not a flax msgpack file"),
        (b"PK\x03\x04 a zip file", "is not a flax msgpack file"),
        (msgpack.packb([1, 2]), "no map at the top"),
        (msgpack.packb({"a": array([3], "float32", b"\0" * 8)}), "shape .3,. has 8 bytes"),
        (msgpack.packb({"a": array([1], "float8", b"\0")}), "unknown dtype 'float8'"),
        (msgpack.packb({"a": msgpack.ExtType(9, b"")}), "unknown extension type 9"),
    ],
    ids=["empty", "cut", "zip", "list", "short array", "dtype", "extension"],
)
def test_anything_else_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        decode_flax(data, "the file")
    assert "\n" not in str(error.value)
