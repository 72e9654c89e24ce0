"""Files of tensors that are hashed while they are written, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch
from torch import Tensor

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

Fill = Callable[["HashedFile"], None]
"""Writes the content of one file."""


class HashedFile:
    """An open file that hashes what passes.

    Args:
        file: open for writing, at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.blake2b()
        self.refusal: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes; their number."""
        self.digest.update(data)
        self.size += len(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.refusal = error  # torch's own complaint would hide it
            raise

    def flush(self) -> None:
        """Hand everything to the system."""
        self.file.flush()

    def entry(self) -> dict[str, object]:
        """Size and hash so far, as a manifest states them."""
        return {"bytes": self.size, "blake2b": self.digest.hexdigest()}


def write_hashed(path: Path, fill: Fill) -> dict[str, object]:
    """Write a file, wait until the disk has it, and say its size and hash.

    Raises:
        OSError: whatever the disk answers.
    """
    with path.open("wb") as file:
        hashed = HashedFile(file)
        try:
            fill(hashed)
        except Exception:
            if hashed.refusal:
                raise hashed.refusal from None
            raise
        hashed.flush()
        os.fsync(file.fileno())
    return hashed.entry()


def fill_json(value: object) -> Fill:
    """Write a JSON value."""

    def fill(file: HashedFile) -> None:
        """A :data:`Fill`."""
        file.write((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    return fill


def fill_state(state: Mapping[str, object]) -> Fill:
    """Write tensors and plain values as torch does."""

    def fill(file: HashedFile) -> None:
        """A :data:`Fill`."""
        torch.save(dict(state), cast("IO[bytes]", file))

    return fill


def fill_tensors(state: Mapping[str, Tensor]) -> Fill:
    """Write tensors in the safetensors format; tied ones are written once a name.

    The format is a header's length in 8 bytes, the header (JSON, padded to whole words) and the
    tensors without gaps; wide types come first, so that each begins at a multiple of its width.
    """

    def fill(file: HashedFile) -> None:
        """A :data:`Fill`."""
        order = sorted(state, key=lambda name: (-state[name].element_size(), name))
        header, end = {}, 0
        for name in order:
            tensor = state[name]
            start, end = end, end + tensor.numel() * tensor.element_size()
            header[name] = {
                "dtype": DTYPES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = state[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)

    return fill
