"""Writing safetensors one tensor at a time; the package's own call wants all of them ready."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import InputError

HALF = (torch.float16, torch.bfloat16)
PART = 1 << 20  # bytes of a tensor that are copied at a time
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of types in the safetensors format."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, half: bool = False
) -> None:
    """:func:`put_tensors` into a file, which is written over."""
    with path.open("wb") as file:
        put_tensors(file.write, tensors, metadata, half=half)


def put_tensors(
    write: Callable[[bytes | memoryview], object],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write the safetensors format; at most a megabyte, or a row, is copied at a time.

    The format is a header's length in 8 bytes, the header (JSON, padded to whole words) and the
    tensors without gaps; wide types come first, so that each begins at a multiple of its width.

    Args:
        write: of a file that is open for writing, at its beginning.
        tensors: on any device, with any strides; tied ones are written once a name.
        metadata: what the header also says; None for nothing.
        half: floats as float16.

    Raises:
        InputError: for a value beyond float16.
        OSError: when the disk refuses.
    """
    order = sorted(tensors, key=lambda name: (-_stored(tensors[name], half).itemsize, name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        dtype, shape = _stored(tensors[name], half), list(tensors[name].shape)
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write(len(text).to_bytes(8, "little") + text)
    for name in order:
        for rows in _parts(tensors[name].detach()):
            part = halved(name, rows) if half else rows
            write(part.cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """A tensor row by row, of which several together have at most :data:`PART` bytes."""
    if not tensor.ndim or not tensor.numel():
        return (tensor.reshape(-1),)
    row = tensor[0].numel() * tensor.element_size()
    return tensor.split(max(1, PART // row))


def halved(name: str, tensor: Tensor) -> Tensor:
    """A tensor as ``half=True`` stores it: any floats as float16, anything else as it is.

    Raises:
        InputError: for a value beyond float16.
    """
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if _some_endless(half) and not torch.equal(half.isfinite(), tensor.isfinite()):
        raise InputError(f"{name!r} has values beyond float16 (65504); save it in full precision")
    return half


def _some_endless(tensor: Tensor) -> bool:
    """Whether there is a NaN or an infinity, found without a mask as large as the tensor."""
    return tensor.numel() > 0 and not all(math.isfinite(end) for end in tensor.aminmax())


def _stored(tensor: Tensor, half: bool) -> torch.dtype:
    return torch.float16 if half and tensor.is_floating_point() else tensor.dtype
