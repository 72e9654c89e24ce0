"""Flax's msgpack checkpoints, read without JAX.

The format is that of ``flax.serialization``: a MessagePack map whose leaves are extension types,
1 an array ``[shape, dtype name, bytes]``, 2 a complex number, 3 an array scalar; large arrays are
maps of flat chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unmask.checkpoints.msgpack_reader import Extension, unpack
from unmask.errors import InputError

Leaf = Tensor | complex | int | float | str | bytes | bool | None
Tree = dict[str, "Tree | Leaf"]

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def decode_flax(data: bytes | memoryview, origin: str = "flax data") -> Tree:
    """Read a checkpoint.

    Args:
        data: the whole file; tensors lie inside it where it may be written to, as a private map of
            a file may.
        origin: file, named in errors.

    Returns:
        Nested dicts with string keys; arrays as tensors of the stored dtype and shape.

    Raises:
        InputError: when the data is not a flax msgpack map.
    """
    view = memoryview(data)
    try:
        tree = unpack(view if not view.readonly else memoryview(bytearray(view)))
        if not isinstance(tree, dict):
            raise ValueError("no map at the top")
        return {str(key): _value(value) for key, value in tree.items()}
    except (ValueError, TypeError, RuntimeError) as error:  # InputError is a ValueError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{origin} is not a flax msgpack file: {reason}") from None


def flatten(tree: Mapping[str, Tree | Leaf], separator: str = "/") -> dict[str, Leaf]:
    """Leaves by their path."""
    flat: dict[str, Leaf] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            below = flatten(value, separator)
            flat |= {f"{key}{separator}{path}": leaf for path, leaf in below.items()}
        else:
            flat[str(key)] = value
    return flat


def _value(value: object) -> Tree | Leaf:
    if isinstance(value, dict):
        tree = {str(key): _value(below) for key, below in value.items()}
        return _joined(tree) if CHUNKED in tree else tree
    if isinstance(value, Extension):
        if value.code == COMPLEX:
            real, imaginary = _list(unpack(value.payload))
            return complex(float(real), float(imaginary))
        if value.code not in (ARRAY, SCALAR):
            raise InputError(f"unknown extension type {value.code}")
        return _array(value.payload)
    if isinstance(value, memoryview):
        return bytes(value)
    if value is None or isinstance(value, (int, float, str)):
        return value
    return None  # a list; flax writes none


def _array(payload: memoryview) -> Tensor:
    shape, name, raw = _list(unpack(payload))
    dtype_name = str(name, "utf8") if isinstance(name, memoryview) else str(name)
    if dtype_name not in INTEGERS + FLOATS:
        raise InputError(f"unknown dtype {dtype_name!r}")
    dtype: torch.dtype = getattr(torch, dtype_name)
    sizes = _shape(_list(shape))
    if not isinstance(raw, memoryview) or len(raw) != math.prod(sizes) * dtype.itemsize:
        had = f"{len(raw)} bytes" if isinstance(raw, memoryview) else "no bytes"
        raise InputError(f"an array of shape {sizes} has {had}")
    if not raw:
        return torch.empty(sizes, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).reshape(sizes)


def _joined(tree: Tree) -> Tensor:
    """A large array, which flax wrote as a map of its shape and of its flat chunks."""
    shape = _shape(_in_order(tree.get("shape")))
    chunks = _in_order(tree.get("chunks"))
    tensors = [chunk for chunk in chunks if isinstance(chunk, Tensor) and chunk.ndim == 1]
    if len(tensors) != len(chunks) or sum(map(len, tensors)) != math.prod(shape) or not tensors:
        raise InputError(f"the chunks of an array of shape {shape} do not fill it")
    return torch.cat(tensors).reshape(shape)


def _in_order(listed: Tree | Leaf) -> list[Tree | Leaf]:
    """The values of a list that flax wrote as a map with keys "0", "1", …"""
    if not isinstance(listed, dict) or not all(key.isdecimal() for key in listed):
        raise InputError("a chunked array lists no shape and chunks")
    return [listed[key] for key in sorted(listed, key=int)]


def _list(value: object) -> list:
    if not isinstance(value, list):
        raise InputError(f"a {type(value).__name__} stands where a list belongs")
    return value


def _shape(sizes: list) -> tuple[int, ...]:
    if not all(isinstance(size, int) and 0 <= size < 2**48 for size in sizes):
        raise InputError(f"an array has the shape {str(sizes)[:60]}")
    return tuple(sizes)
