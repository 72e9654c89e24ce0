"""The ``.npz`` files in which evaluators exchange images."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.image_batch import ImageBatch
from unmask.files.damage import DAMAGE, reason
from unmask.files.durable import explained

IMAGES, LABELS = "arr_0.npy", "arr_1.npy"
MOST_PACKED = 100  # times that a file may grow by unpacking, beyond what is small anyway
SMALL = 64 << 20


class Header(NamedTuple):
    """Shape, memory order and type of an array, as its file states them."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


class NpzSet:
    """``arr_0`` ``(N, H, W, C)`` uint8 and, if there, ``arr_1`` labels, as ADM's evaluator reads.

    Args:
        path: the file; images are read from it block by block.
        batch_size: images a batch.

    Raises:
        InputError: for a file that is missing, cut off, empty or laid out in another way.
    """

    def __init__(self, path: Path | str, *, batch_size: int = 64) -> None:
        self.path = Path(path)
        self.batch_size = batch_size
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self._unpacked: np.memmap | None = None
        with self._opened() as archive:
            names = set(archive.namelist())
            if IMAGES not in names:
                raise InputError(f"{path} holds no arr_0; write it with write_npz")
            with self._member(archive, IMAGES) as (_, header):
                self.count, *self._layout = _check_images(header, self.path)
                self._fortran = header.fortran
            self.labels = self._read_labels(archive) if LABELS in names else None
            """``(N,)`` int64, if there are any."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        height, width, channels = self._layout
        return channels, height, width

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except InputError:
            raise
        except (*DAMAGE, MemoryError) as error:
            raise InputError(f"cannot read the image set {self.path}: {reason(error)}") from error

    @contextmanager
    def _member(self, archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], Header]]:
        """An array at its first number, and its header, which agrees with the file's size."""
        info = archive.getinfo(name)
        if info.file_size > SMALL + MOST_PACKED * info.compress_size:
            raise InputError(
                f"{self.path}: {name} unpacks from {info.compress_size:,} to {info.file_size:,} "
                "bytes, which no images do; write it anew"
            )
        with archive.open(name) as member:
            header = _header(member)
            claimed = math.prod(header.shape) * header.dtype.itemsize
            if min(header.shape, default=0) < 0 or claimed != info.file_size - member.tell():
                raise InputError(
                    f"{self.path}: {name} of shape {header.shape}, {header.dtype}, and "
                    f"{info.file_size:,} bytes do not fit; copy it again"
                )
            yield member, header

    def _read_labels(self, archive: zipfile.ZipFile) -> Tensor:
        with self._member(archive, LABELS) as (member, header):
            if header.shape != (self.count,) or header.dtype.kind not in "iu":
                raise InputError(
                    f"{self.path}: arr_1 of shape {header.shape}, {header.dtype}; "
                    f"{self.count} images need as many integer labels"
                )
            return torch.from_numpy(np.frombuffer(member.read(), header.dtype).astype(np.int64))

    def __len__(self) -> int:
        """Images."""
        return self.count

    def __iter__(self) -> Iterator[ImageBatch]:
        """Read the file once."""
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[ImageBatch]:
        """Batches of the images ``[start, stop)``."""
        firsts = range(start, min(stop, self.count), self.batch_size)
        sizes = [min(self.batch_size, min(stop, self.count) - first) for first in firsts]
        with self._opened() as archive, self._member(archive, IMAGES) as (member, _):
            read = self._in_columns if self._fortran else self._in_rows
            for first, pixels in zip(firsts, read(member, start, sizes), strict=True):
                labels = None if self.labels is None else self.labels[first : first + len(pixels)]
                yield ImageBatch(torch.from_numpy(pixels).permute(0, 3, 1, 2), labels)

    def _in_rows(self, member: IO[bytes], start: int, sizes: list[int]) -> Iterator[np.ndarray]:
        """Image after image from ``start`` on, in blocks of these sizes."""
        image_bytes = math.prod(self._layout)
        member.seek(start * image_bytes, os.SEEK_CUR)
        for size in sizes:
            raw = bytearray(member.read(size * image_bytes))
            if len(raw) < size * image_bytes:
                raise EOFError("it is cut off")
            yield np.frombuffer(raw, np.uint8).reshape(size, *self._layout)

    def _in_columns(self, member: IO[bytes], start: int, sizes: list[int]) -> Iterator[np.ndarray]:
        """Images of an array in Fortran's order, through a file where any place can be read."""
        if self._unpacked is None:
            shape = (self.count, *self._layout)
            place = Path(tempfile.gettempdir())
            with explained(place, "the set is whole"), tempfile.TemporaryFile(dir=place) as file:
                shutil.copyfileobj(member, file, 1 << 20)
                file.flush()
                self._unpacked = np.memmap(file, np.uint8, "r", shape=shape, order="F")
        for size in sizes:
            yield np.ascontiguousarray(self._unpacked[start : start + size])
            start += size


def _header(member: IO[bytes]) -> Header:
    """The header of an array; ``member`` is left at the first number."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return Header(*np.lib.format.read_array_header_1_0(member))
    return Header(*np.lib.format.read_array_header_2_0(member))


def _check_images(header: Header, path: Path) -> tuple[int, ...]:
    """The shape of ``arr_0``."""
    shape, _, dtype = header
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
        raise InputError(
            f"{path}: arr_0 of shape {shape}, {dtype}; it must be uint8 (N, H, W, C), C 1 or 3"
        )
    if not all(shape):
        raise InputError(f"{path} holds 0 images or images of 0 pixels; give at least 1")
    return shape
