"""Batches of images that are to be judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError


class ImageBatch(NamedTuple):
    """Consecutive images of a set.

    Args:
        images: ``(B, C, H, W)`` uint8.
        labels: ``(B,)`` int64.
    """

    images: Tensor
    labels: Tensor | None = None


Batches = Iterable[Tensor | ImageBatch]


def as_batches(source: Batches) -> Iterator[ImageBatch]:
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


def gather(source: Batches) -> ImageBatch:
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


def regrouped(batches: Iterable[ImageBatch], size: int) -> Iterator[ImageBatch]:
    """The images of batches, which all have labels or none, in batches of one size and a rest."""
    held: list[ImageBatch] = []
    for batch in batches:
        held = [gather([*held, batch])]
        while len(held[0].images) >= size:
            (images, labels), held = held[0], []
            first, rest = (
                ImageBatch(images[part], None if labels is None else labels[part])
                for part in (slice(size), slice(size, None))
            )
            yield first
            held = [rest]
    yield from (batch for batch in held if len(batch.images))
