"""Sets of images on disk: folders of PNG files and the ``.npz`` files that evaluators exchange."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unmask.durable import output, output_folder
from unmask.errors import InputError
from unmask.folders import check_folder
from unmask.pictures import to_pil

CLASS_FOLDER = re.compile(r"class_(\d+)")
GREY_MODES = ("1", "L", "LA")
BYTE_MODES = (*GREY_MODES, "RGB", "RGBA", "P", "CMYK", "YCbCr")


class ImageBatch(NamedTuple):
    """Consecutive images of a set."""

    images: Tensor
    """``(B, C, H, W)`` uint8."""
    labels: Tensor | None = None
    """``(B,)`` int64."""


def as_batches(source: Iterable[Tensor | ImageBatch]) -> Iterator[ImageBatch]:
    """Bare tensors become batches without labels.

    Raises:
        InputError: for anything but uint8 ``(B, C, H, W)``.
    """
    for item in source:
        batch = ImageBatch(item) if isinstance(item, Tensor) else item
        if batch.images.dtype != torch.uint8 or batch.images.ndim != 4:
            raise InputError(
                f"a batch of shape {tuple(batch.images.shape)}, {batch.images.dtype}: evaluation "
                "reads uint8 (B, C, H, W); see unmask.pictures.to_uint8"
            )
        yield batch


def gather(source: Iterable[Tensor | ImageBatch]) -> ImageBatch:
    """A whole set in memory; labels only if every batch has them.

    Raises:
        InputError: for an empty set.
    """
    batches = list(as_batches(source))
    if not batches:
        raise InputError("the set holds no images; give at least 1")
    labels = [batch.labels for batch in batches if batch.labels is not None]
    images = torch.cat([batch.images for batch in batches])
    return ImageBatch(images, torch.cat(labels) if len(labels) == len(batches) else None)


class PngFolder:
    """The PNG files below a folder, in the order of their paths.

    Files in folders named ``class_<k>`` have the label k; the set has labels when all files do.
    A file that is no image, is cut off or has 16-bit pixels is skipped and named in ``skipped``.

    Args:
        path: the folder.
        batch_size: images a batch.

    Raises:
        InputError: for a folder that is missing or holds no PNG file.
    """

    def __init__(self, path: Path | str, *, batch_size: int = 64) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{path} is not a folder; name a folder of PNG files or an .npz file")
        self.files = sorted(p for p in self.path.rglob("*") if p.suffix.lower() == ".png")
        if not self.files:
            raise InputError(f"{path} holds no PNG file; name the folder that does")
        self.batch_size = batch_size
        self.skipped: list[str] = []
        self._shape: tuple[int, ...] | None = None
        marks = [CLASS_FOLDER.fullmatch(file.parent.name) for file in self.files]
        self._labels = {
            file: int(mark[1]) for file, mark in zip(self.files, marks, strict=True) if mark
        }

    @property
    def labels(self) -> Tensor | None:
        """``(N,)`` int64, one a file; None unless all have one."""
        if len(self._labels) < len(self.files):
            return None
        return torch.tensor([self._labels[file] for file in self.files])

    def __len__(self) -> int:
        """Files, readable or not."""
        return len(self.files)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Read the files once; all must agree in size and channels."""
        self.skipped = []
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[ImageBatch]:
        """Batches of the files ``[start, stop)``; unreadable ones leave them smaller."""
        for first in range(start, min(stop, len(self)), self.batch_size):
            files = self.files[first : min(first + self.batch_size, stop)]
            images = {file: image for file in files if (image := self._read(file)) is not None}
            if images:
                yield self._batch(images)

    def _read(self, file: Path) -> Tensor | None:
        try:
            with Image.open(file) as image:
                if image.mode not in BYTE_MODES:
                    self.skipped.append(f"{file}: pixels of mode {image.mode}, not 8 bits")
                    return None
                pixels = np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as problem:
            self.skipped.append(f"{file}: {problem}")
            return None
        read = torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1)
        self._shape = self._shape or tuple(read.shape)
        if tuple(read.shape) != self._shape:
            raise InputError(
                f"{file} has shape {tuple(read.shape)}, the files before it {self._shape}; "
                "one set needs one size and one number of channels"
            )
        return read

    def _batch(self, images: dict[Path, Tensor]) -> ImageBatch:
        stacked = torch.stack(list(images.values()))
        if len(self._labels) < len(self.files):
            return ImageBatch(stacked)
        return ImageBatch(stacked, torch.tensor([self._labels[file] for file in images]))


class NpzFile:
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
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = set(archive.namelist())
                if "arr_0.npy" not in names:
                    raise InputError(f"{path} holds no arr_0; write it with write_npz")
                with archive.open("arr_0.npy") as member:
                    self.shape = _image_header(member, self.path)
                self.labels = self._read_labels(archive) if "arr_1.npy" in names else None
        except (OSError, EOFError, zipfile.BadZipFile) as problem:
            raise InputError(f"cannot read the image set {path}: {problem}") from None

    def _read_labels(self, archive: zipfile.ZipFile) -> Tensor:
        with archive.open("arr_1.npy") as member:
            values = np.lib.format.read_array(member, allow_pickle=False)
        if values.shape != self.shape[:1] or values.dtype.kind not in "iu":
            raise InputError(
                f"{self.path}: arr_1 of shape {values.shape}, {values.dtype}; "
                f"{self.shape[0]} images need as many integer labels"
            )
        return torch.from_numpy(values.astype(np.int64))

    def __len__(self) -> int:
        """Images."""
        return self.shape[0]

    def __iter__(self) -> Iterator[ImageBatch]:
        """Read the file once."""
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[ImageBatch]:
        """Batches of the images ``[start, stop)``."""
        count, height, width, channels = self.shape
        stop, image_bytes = min(stop, count), height * width * channels
        with zipfile.ZipFile(self.path) as archive, archive.open("arr_0.npy") as member:
            _image_header(member, self.path)
            member.seek(start * image_bytes, os.SEEK_CUR)
            for first in range(start, stop, self.batch_size):
                size = min(self.batch_size, stop - first)
                raw = member.read(size * image_bytes)
                if len(raw) < size * image_bytes:
                    raise InputError(f"{self.path} is cut off after image {first}; copy it again")
                pixels = np.frombuffer(bytearray(raw), np.uint8)
                images = torch.from_numpy(pixels).view(size, height, width, channels)
                labels = None if self.labels is None else self.labels[first : first + size]
                yield ImageBatch(images.permute(0, 3, 1, 2), labels)


def _image_header(member: IO[bytes], path: Path) -> tuple[int, int, int, int]:
    """Check the header of ``arr_0`` and leave ``member`` at the first pixel."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, transposed, dtype = read(member)
    if dtype != np.uint8 or len(shape) != 4 or transposed or shape[3] not in (1, 3):
        raise InputError(
            f"{path}: arr_0 of shape {shape}, {dtype}; it must be uint8 (N, H, W, C), C 1 or 3"
        )
    if not shape[0]:
        raise InputError(f"{path} holds 0 images; give at least 1")
    return shape


def open_image_set(path: Path | str, *, batch_size: int = 64) -> PngFolder | NpzFile:
    """A folder of PNG files or an ``.npz`` file, read batch by batch.

    Raises:
        InputError: when there is nothing at ``path`` that can be read.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; name a folder of PNG files or an .npz file")
    kind = PngFolder if Path(path).is_dir() else NpzFile
    return kind(path, batch_size=batch_size)


def write_npz(path: Path | str, source: Iterable[Tensor | ImageBatch]) -> int:
    """Write ``arr_0`` and, if every batch has labels, ``arr_1``; memory holds one batch.

    The file appears under its name only when it is whole, and replaces one that was there.

    Args:
        path: ends in ``.npz``.
        source: batches of uint8 ``(B, C, H, W)``, all of one shape.

    Returns:
        The number of images.

    Raises:
        InputError: for another ending, an empty source, shapes that differ, or a disk that is full
            or refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path} must end in .npz")
    # The header states the count, so pixels wait in a spool until it is known.
    with output(path) as aside, tempfile.TemporaryFile(dir=aside.parent) as spool:
        shape, labels = _spool(source, spool)
        with zipfile.ZipFile(aside, "w") as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                spool.seek(0)
                shutil.copyfileobj(spool, member, 1 << 20)
            if len(labels) == shape[0]:
                with archive.open("arr_1.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(labels, np.int64))
    return shape[0]


def _spool(
    source: Iterable[Tensor | ImageBatch], spool: IO[bytes]
) -> tuple[tuple[int, int, int, int], list[int]]:
    """Write pixels in (N, H, W, C) order; return that shape and the labels met."""
    count, image_shape, labels = 0, None, list[int]()
    for batch in as_batches(source):
        pixels = batch.images.permute(0, 2, 3, 1).contiguous().cpu()
        image_shape = image_shape or tuple(pixels.shape[1:])
        if tuple(pixels.shape[1:]) != image_shape:
            raise InputError(
                f"images of shape {tuple(pixels.shape[1:])} after {image_shape} (height, width, "
                "channels); one set needs one shape"
            )
        spool.write(pixels.numpy().tobytes())
        count += len(pixels)
        if batch.labels is not None:
            labels += batch.labels.tolist()
    if image_shape is None or not count:
        raise InputError("no images to write; give at least 1")
    height, width, channels = image_shape
    return (count, height, width, channels), labels


def write_folder(path: Path | str, source: Iterable[Tensor | ImageBatch]) -> int:
    """Write PNG files named by index, in ``class_<k>`` folders where there are labels.

    Without labels all lie side by side, as torch-fidelity and pytorch-fid look for them. The folder
    appears under its name only when it is whole.

    Args:
        path: a new or empty folder.
        source: batches of uint8 ``(B, C, H, W)``, C 1 or 3.

    Returns:
        The number of images.

    Raises:
        InputError: when the folder holds something already, or the disk is full or refuses.
    """
    path = Path(path)
    check_folder(path, "image set")
    count = 0
    with output_folder(path) as aside:
        for batch in as_batches(source):
            labels = [None] * len(batch.images) if batch.labels is None else batch.labels.tolist()
            for image, label in zip(batch.images, labels, strict=True):
                folder = aside if label is None else aside / f"class_{label}"
                folder.mkdir(exist_ok=True)
                to_pil(image).save(folder / f"{count:06d}.png")
                count += 1
    return count
