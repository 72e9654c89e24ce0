"""Codes or features of every image of a source, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.files.durable import outputs
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
    """Codes or features of images, which ``extractor`` gets as float32 in [0, 1] on ``device``.

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
    labels = torch.full((len(source),), -1)
    table: np.memmap | None = None
    with outputs(labels_beside(path), path, named=path, intact="older ones are whole") as asides:
        labels_aside, aside = asides
        for rows, values in extract(
            source, transform, extractor, device=device, batch_size=batch_size
        ):
            if table is None:
                table = _blank_table(aside, len(source), values.shape[1])
            table[rows] = values.float().numpy()
            known = map(source.label, rows)
            labels[rows] = torch.tensor([-1 if label is None else label for label in known])
        if table is None:
            raise InputError(f"none of the {len(source)} images of {source.name} can be read")
        table.flush()
        with labels_aside.open("wb") as file:
            np.save(file, labels.numpy())
    return torch.from_numpy(np.load(path, mmap_mode="c")), labels


def labels_beside(path: Path) -> Path:
    """The file with the labels of a file of features."""
    return path.with_suffix(".labels.npy")


def _blank_table(path: Path, rows: int, width: int) -> np.memmap:
    """A ``.npy`` file of ``(rows, width)`` NaN, open for writing.

    All of it is written before the work, so a disk that has no room for it says so at once.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    nan = np.full(width, np.nan, np.float32).tobytes()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(nan for _ in range(rows))
    return np.load(path, mmap_mode="r+")


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
