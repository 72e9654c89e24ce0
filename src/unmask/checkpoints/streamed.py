"""Files that are hashed while they are written, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch
from torch import Tensor

from unmask.checkpoints.write_tensors import put_tensors

Fill = Callable[["HashedFile"], object]
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
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    return lambda file: file.write(text.encode())


def fill_state(state: Mapping[str, object]) -> Fill:
    """Write tensors and plain values as torch does."""
    return lambda file: torch.save(dict(state), cast("IO[bytes]", file))


def fill_tensors(state: Mapping[str, Tensor]) -> Fill:
    """Write tensors in the safetensors format; tied ones are written once a name."""
    return lambda file: put_tensors(file.write, state)
