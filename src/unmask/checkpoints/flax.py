"""Flax's msgpack checkpoints, read without JAX.

The format is that of ``flax.serialization``: a MessagePack map whose leaves are extension types,
1 an array ``[shape, dtype name, bytes]``, 2 a complex number, 3 an array scalar; large arrays are
maps of flat chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgpack
import torch
from torch import Tensor

from unmask.errors import InputError

Leaf = Tensor | complex | int | float | str | bytes | bool | None
Tree = dict[str, "Tree | Leaf"]

ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"
INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def decode_flax(data: bytes, origin: str = "flax data") -> Tree:
    """Read a checkpoint.

    Args:
        data: the whole file.
        origin: file, named in errors.

    Returns:
        Nested dicts with string keys; arrays as tensors of the stored dtype and shape.

    Raises:
        InputError: when the data is not a flax msgpack map.
    """
    try:
        tree = msgpack.unpackb(data, ext_hook=_leaf, strict_map_key=False)
    except (msgpack.UnpackException, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{origin} is not a flax msgpack file: {reason}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{origin} is not a flax msgpack file: no map at the top")
    joined = _join_chunks(tree)
    assert isinstance(joined, dict), "a checkpoint is a map of arrays, not one array"
    return joined


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


def _leaf(code: int, payload: bytes) -> Tensor | complex:
    if code in (ARRAY, SCALAR):
        return _array(payload)
    if code == COMPLEX:
        real, imaginary = msgpack.unpackb(payload)
        return complex(real, imaginary)
    raise InputError(f"unknown extension type {code}")


def _array(payload: bytes) -> Tensor:
    shape, name, raw = msgpack.unpackb(payload, raw=True)
    dtype_name = name.decode() if isinstance(name, bytes) else str(name)
    if dtype_name not in INTEGERS + FLOATS:
        raise InputError(f"unknown dtype {dtype_name!r}")
    dtype: torch.dtype = getattr(torch, dtype_name)
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise InputError(f"an array of shape {tuple(shape)} has {len(raw)} bytes")
    if not raw:
        return torch.empty(*shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def _join_chunks(tree: Tree | Leaf) -> Tree | Leaf:
    if not isinstance(tree, dict):
        return tree
    if CHUNKED not in tree:
        return {str(key): _join_chunks(value) for key, value in tree.items()}
    shape, chunks = _in_order(tree["shape"]), _in_order(tree["chunks"])
    return torch.cat(chunks).reshape(shape)


def _in_order(listed: Tree | Leaf) -> list:
    """The values of a list that flax wrote as a map with keys "0", "1", …"""
    assert isinstance(listed, dict), "a chunked array lists its shape and chunks"
    return [listed[key] for key in sorted(listed, key=int)]
