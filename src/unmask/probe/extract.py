"""Codes or features of every image of a source, in its order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.files.durable import ROOM, outputs
from unmask.pictures import to_float

Extractor = Callable[[Tensor], Tensor]
"""From what a batch holds to codes or features, ``(B, ...)``; nothing is trained in it."""
BATCH = 16  # images at once: at 256 pixels a tokenizer's encoder wants 0.15 GB for each


@torch.no_grad()
def extract(
    source: ImageSource,
    transform: Transform,
    extractor: Extractor,
    *,
    device: torch.device,
    batch_size: int = BATCH,
) -> Iterator[tuple[list[int], Tensor]]:
    """What ``extractor`` makes of images, which it gets as float32 in [0, 1] on ``device``.

    Yields:
        Rows, ascending, without those of unreadable images; and ``(n, ...)`` values on the CPU.
    """

    def _read(row: int) -> Tensor | None:
        try:
            return transform(source.image(row))
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), batch_size):
            rows = range(len(source))[start : start + batch_size]
            images = zip(rows, pool.map(_read, rows), strict=True)
            whole = {row: image for row, image in images if image is not None}
            if whole:
                pixels = to_float(torch.stack(list(whole.values())).to(device))
                yield list(whole), extractor(pixels).cpu()


def labelled(
    source: ImageSource, transform: Transform, extractor: Extractor, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """All values and labels of a source at once.

    Raises:
        InputError: none of its images can be read.
    """
    parts = list(extract(source, transform, extractor, device=device))
    if not parts:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    labels = [source.label(row) for rows, _ in parts for row in rows]
    return torch.cat([values for _, values in parts]), torch.tensor(labels)


def write_features(
    source: ImageSource,
    transform: Transform,
    extractor: Extractor,
    *,
    path: Path,
    device: torch.device,
    batch_size: int = BATCH,
) -> tuple[Tensor, Tensor]:
    """Features of every image as a memory map, the labels beside it.

    Args:
        source: the images.
        transform: brings them to one size.
        extractor: images to ``(B, D)`` features.
        path: of the ``.npy`` file, ``(N, D)`` float32 in the order of the source; labels go to
            ``.labels.npy``. An unreadable image has NaN features and the label -1.
        device: where to compute.
        batch_size: images at once, which decides the memory and not the features.

    Returns:
        The map and the labels, ``(N,)`` int64, -1 throughout for unlabelled images.

    Raises:
        InputError: none of the images can be read, or the disk is full or refuses; an older file is
            whole then.
    """
    labels = np.full(len(source), -1, np.int64)
    files = labels_beside(path), path
    with outputs(*files, named=path, intact="older ones are whole") as (labels_aside, aside):
        with aside.open("wb") as file:
            table = _Table(file, len(source))
            for rows, values in extract(
                source, transform, extractor, device=device, batch_size=batch_size
            ):
                table.write(rows, values.float())
                known = map(source.label, rows)
                labels[rows] = [-1 if label is None else label for label in known]
            if not table.width:
                raise InputError(f"none of the {len(source)} images of {source.name} can be read")
            table.end()
        with labels_aside.open("wb") as file:
            np.save(file, labels)
    return torch.from_numpy(np.load(path, mmap_mode="c")), torch.from_numpy(labels)


def labels_beside(path: Path) -> Path:
    """Where the labels of a file of features lie."""
    return path.with_suffix(".labels.npy")


class _Table:
    """A ``.npy`` file that is written row after row; one that is left out is NaN.

    Args:
        file: empty.
        rows: in all.
    """

    def __init__(self, file: BinaryIO, rows: int) -> None:
        self.file, self.rows, self.width, self.done = file, rows, 0, 0

    def write(self, rows: Sequence[int], values: Tensor) -> None:
        """Write ``(n, D)`` float32 values of ascending rows."""
        if not self.width:
            self._begin(values.shape[1])
        self._skip_to(rows[0])
        block = np.full((rows[-1] + 1 - rows[0], self.width), np.nan, np.float32)
        block[np.array(rows) - rows[0]] = values.numpy()
        self.file.write(block.tobytes())
        self.done = rows[-1] + 1

    def end(self) -> None:
        """Write the rows that are still missing."""
        self._skip_to(self.rows)

    def _begin(self, width: int) -> None:
        """Write the header, and have the disk keep the room of all rows, or say that it is full."""
        self.width = width
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, width)}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.file.flush()
        size = self.file.tell() + 4 * self.rows * width
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self.file.fileno(), 0, size)
            except OSError as error:
                if error.errno in ROOM:
                    raise

    def _skip_to(self, row: int) -> None:
        while self.done < row:
            count = min(BATCH, row - self.done)
            self.file.write(np.full((count, self.width), np.nan, np.float32).tobytes())
            self.done += count


CHUNK = 1024  # queries compared at a time


def knn_accuracy(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries that their nearest neighbours name rightly (DINO, arXiv 2104.14294).

    Each of the ``k`` known images of largest cosine similarity s votes for its class with weight
    exp(s / temperature).

    Args:
        known: ``(N, D)`` features whose classes may be looked at.
        known_labels: ``(N,)`` int64.
        queries: ``(M, D)`` features of other images.
        labels: ``(M,)`` int64.
        k: neighbours; fewer where there are not as many known images.
        temperature: above 0.

    Raises:
        InputError: no neighbours, or nothing to compare.
    """
    if k < 1 or not len(known) or not len(queries):
        raise InputError(
            f"k={k} neighbours among {len(known)} images for {len(queries)} others: each must be "
            "at least 1"
        )
    known = F.normalize(known.float(), dim=1)
    classes = int(torch.cat([known_labels, labels]).max()) + 1
    right = 0
    for part, truth in zip(queries.split(CHUNK), labels.split(CHUNK), strict=True):
        near = (F.normalize(part.float(), dim=1) @ known.T).topk(min(k, len(known)))  # (m, k)
        votes = torch.zeros(len(part), classes, dtype=near.values.dtype)
        votes.scatter_add_(1, known_labels[near.indices], (near.values / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(queries)
