"""Folders of pictures that are to be judged, read by the rules of training data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask.data.decoding import UnreadableImageError, decode_image, picture_shape
from unmask.data.walk import Walk
from unmask.errors import InputError
from unmask.evaluate.image_batch import ImageBatch

CLASS_FOLDER = re.compile(r"class_(\d{1,9})")


class FolderSet:
    """The pictures below a folder, in the order of their paths.

    Files in folders named ``class_<k>`` have the label k; the set has labels when all files do.
    A picture that cannot be read is skipped and named in ``skipped``; grey ones among coloured ones
    become coloured. What lies there and is no picture is named in ``notes``.

    Args:
        path: the folder.
        batch_size: images a batch.

    Raises:
        InputError: for a folder that is missing or without pictures, none of which can be read, or
            whose pictures differ in size; all are looked at, none is decoded.
    """

    def __init__(self, path: Path | str, *, batch_size: int = 64) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{path} is not a folder; name a folder of image files or a .npz file")
        walk = Walk(self.path)
        self.files = sorted(walk.pictures())
        left = walk.left_out()
        self.notes = [f"left out of {path}: {'; '.join(left)}"] if left else []
        if not self.files:
            beside = f", but {'; '.join(left)}" if left else ""
            raise InputError(f"{path} holds no image file{beside}; name the folder that does")
        self.batch_size = batch_size
        self.skipped: list[str] = []
        self.shape = self._common_shape()
        """Channels, height and width of every picture."""
        marks = [CLASS_FOLDER.fullmatch(Path(file).parent.name) for file in self.files]
        labels = [int(mark[1]) for mark in marks if mark]
        self.labels = torch.tensor(labels) if len(labels) == len(marks) else None
        """``(N,)`` int64, one a file; None unless all have one."""

    def _common_shape(self) -> tuple[int, int, int]:
        first, channels = "", 1
        size: tuple[int, int] | None = None
        for file in self.files:
            shape = picture_shape(self.path / file)
            if shape is None:
                continue
            first, size, channels = first or file, size or shape[1:], max(channels, shape[0])
            if shape[1:] != size:
                raise InputError(
                    f"{self.path}: {file} is {shape[1]} x {shape[2]}, {first} {size[0]} x "
                    f"{size[1]} (height x width); one set needs one size"
                )
        if size is None:
            raise InputError(
                f"none of the {len(self.files):,} image files in {self.path} can be read, such as "
                f"{self.files[0]}; look at them"
            )
        return channels, *size

    def __len__(self) -> int:
        """Files, readable or not."""
        return len(self.files)

    def __iter__(self) -> Iterator[ImageBatch]:
        """Read the files once."""
        self.skipped = []
        return self.between(0, len(self))

    def between(self, start: int, stop: int) -> Iterator[ImageBatch]:
        """Batches of the files ``[start, stop)``; unreadable ones leave them smaller."""
        for first in range(start, min(stop, len(self)), self.batch_size):
            rows = range(first, min(first + self.batch_size, stop, len(self)))
            images = {row: image for row in rows if (image := self._read(row)) is not None}
            if images:
                labels = None if self.labels is None else self.labels[list(images)]
                yield ImageBatch(torch.stack(list(images.values())), labels)

    def _read(self, row: int) -> Tensor | None:
        file = self.path / self.files[row]
        channels, height, width = self.shape
        try:
            image = decode_image(file.read_bytes(), str(file))
        except UnreadableImageError as problem:
            self.skipped.append(f"{file}: {problem.reason}")
            return None
        except OSError as problem:
            self.skipped.append(f"{file}: {problem.strerror or problem}")
            return None
        if image.size != (width, height):
            self.skipped.append(f"{file}: {image.height} x {image.width}, not what its header says")
            return None
        pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
        return torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)
