"""Codes or features of every image of a source, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.probe.judge import Examples
from unmask.probe.objective import Represent

BATCH = 64


class Extracted(NamedTuple):
    """A part of a source."""

    rows: list[int]
    """Ascending; unreadable images are left out."""
    values: Tensor
    """``(n, ...)`` on the CPU."""


@torch.no_grad()
def extract(
    source: ImageSource, transform: Transform, represent: Represent, *, device: torch.device
) -> Iterator[Extracted]:
    """What ``represent`` makes of the images, which it gets as float32 in [0, 1] on ``device``."""

    def read(row: int) -> Tensor | None:
        try:
            return transform(source.image(row))
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), BATCH):
            rows = range(start, min(start + BATCH, len(source)))
            images = dict(zip(rows, pool.map(read, rows), strict=True))
            whole = {row: image for row, image in images.items() if image is not None}
            if whole:
                pixels = torch.stack(list(whole.values())).to(device).float() / 255
                yield Extracted(list(whole), represent(pixels).cpu())


def held_out(
    source: ImageSource, transform: Transform, represent: Represent, *, device: torch.device
) -> Examples:
    """All of a labelled source at once, for judging.

    Raises:
        InputError: none of its images can be read.
    """
    parts = list(extract(source, transform, represent, device=device))
    if not parts:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    labels = torch.tensor([source.label(row) for part in parts for row in part.rows])
    return Examples(torch.cat([part.values for part in parts]), labels)


def write_features(
    source: ImageSource,
    transform: Transform,
    represent: Represent,
    *,
    path: Path,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of every image as a memory map, the labels beside it.

    Args:
        source: the images.
        transform: brings them to one size.
        represent: images to ``(B, D)`` features.
        path: of the ``.npy`` file, ``(N, D)`` float32 in the order of the source; labels go to
            ``.labels.npy``. An unreadable image has NaN features and the label -1.
        device: where to compute.

    Returns:
        The map and the labels, ``(N,)`` int64, -1 throughout for unlabelled images.

    Raises:
        InputError: none of the images can be read.
    """
    aside = path.with_name(f".{path.name}.part")
    features: np.ndarray | None = None
    labels = np.full(len(source), -1, np.int64)
    for rows, values in extract(source, transform, represent, device=device):
        if features is None:
            shape = (len(source), values.shape[1])
            features = np.lib.format.open_memmap(aside, "w+", np.float32, shape)
            features[:] = np.nan
        features[rows] = values.float().numpy()
        labels[rows] = [-1 if (label := source.label(row)) is None else label for row in rows]
    if features is None:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    np.save(path.with_suffix(".labels.npy"), labels)
    aside.replace(path)  # the map stays valid under its new name
    return features, labels
