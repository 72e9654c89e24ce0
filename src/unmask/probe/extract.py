"""Codes or features of every image of a source, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.probe.objective import Represent

BATCH = 64


@torch.no_grad()
def extract(
    source: ImageSource, transform: Transform, represent: Represent, *, device: torch.device
) -> Iterator[tuple[list[int], Tensor]]:
    """What ``represent`` makes of images, which it gets as float32 in [0, 1] on ``device``.

    Yields:
        Rows, ascending, without those of unreadable images; and ``(n, ...)`` values on the CPU.
    """

    def _read(row: int) -> Tensor | None:
        try:
            return transform(source.image(row))
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(source), BATCH):
            rows = range(len(source))[start : start + BATCH]
            images = zip(rows, pool.map(_read, rows), strict=True)
            whole = {row: image for row, image in images if image is not None}
            if whole:
                pixels = torch.stack(list(whole.values())).to(device).float() / 255
                yield list(whole), represent(pixels).cpu()


def labelled(
    source: ImageSource, transform: Transform, represent: Represent, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """All values and labels of a source at once.

    Raises:
        InputError: none of its images can be read.
    """
    parts = list(extract(source, transform, represent, device=device))
    if not parts:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    labels = [source.label(row) for rows, _ in parts for row in rows]
    return torch.cat([values for _, values in parts]), torch.tensor(labels)


def write_features(
    source: ImageSource,
    transform: Transform,
    represent: Represent,
    *,
    path: Path,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
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
    aside, features = path.with_name(f".{path.name}.part"), None
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
    return torch.from_numpy(features), torch.from_numpy(labels)
