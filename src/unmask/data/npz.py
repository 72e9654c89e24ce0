"""Arrays of .npz files that somebody else wrote: no more memory than the files honestly hold."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.lib import format as npy

MOST_BYTES = 1 << 28  # of one array; an image's moments take a few 100 KB


def read_arrays(content: bytes, names: Sequence[str]) -> list[np.ndarray | None]:
    """Arrays of one file by name, None for those that it has not.

    Args:
        content: the file.
        names: of the arrays.

    Raises:
        ValueError: an array states more than it holds or than :data:`MOST_BYTES`, or it is none of
            numbers. What else a zip file's reader raises is in :data:`unmask.files.damage.DAMAGE`.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        there = set(archive.namelist())
        return [
            _read_array(archive, f"{name}.npy") if f"{name}.npy" in there else None
            for name in names
        ]


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{name} is larger than {MOST_BYTES:,} bytes")
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"{name} holds no numbers")
    if math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{name} states {shape} of {dtype} and holds other bytes")
    flat = np.frombuffer(content, dtype, math.prod(shape), stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()
