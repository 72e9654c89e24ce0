"""Real images that generated ones are compared with, and what a tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from unmask.data.build_cache import source_hash
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.evaluate.chunks import NumberedSet
from unmask.evaluate.image_sets import ImageBatch
from unmask.pictures import to_float, to_uint8
from unmask.tokenizers.folder import AnyTokenizer

BATCH = 64


class RealImages(NamedTuple):
    """What the images are compared with."""

    train: ImageSource
    """Images that a model may have seen: the real floor."""
    held_out: ImageSource
    """Images that it has not: the reference."""
    transform: Transform
    """Brings them to the size of the judged images."""

    @property
    def still(self) -> Transform:
        """The same without mirroring."""
        return replace(self.transform, flip=False)

    @property
    def identity(self) -> str:
        """Stands for names and labels of the images and what is done to them."""
        sides = [f"{side.name} {source_hash(side)}" for side in (self.train, self.held_out)]
        return f"{'; '.join(sides)}; {self.still}"


def real_batches(
    source: ImageSource,
    transform: Transform,
    *,
    count: int,
    batch_size: int = BATCH,
    skipped: list[str] | None = None,
) -> Iterator[ImageBatch]:
    """Real images in a fixed random order, at most ``count``, uint8 with labels if they have.

    Args:
        source: the images.
        transform: brings them to one size.
        count: images wanted; unreadable ones are passed over and do not count.
        batch_size: images a batch.
        skipped: collects the keys of unreadable images.
    """
    unread = [] if skipped is None else skipped
    for images, labels in _real_between(0, len(source), source, transform, batch_size, unread):
        yield ImageBatch(images[:count], None if labels is None else labels[:count])
        count -= len(images)
        if count <= 0:
            return


def _real_between(
    start: int,
    stop: int,
    source: ImageSource,
    transform: Transform,
    batch_size: int,
    skipped: list[str],
) -> Iterator[ImageBatch]:
    """Those at positions of the order; keys of unreadable ones, not in a batch, to ``skipped``."""
    order = torch.randperm(len(source), generator=keyed_generator("real", len(source)))
    for rows in order[start:stop].split(batch_size):
        images, labels = [], []
        for row in rows.tolist():
            try:
                images.append(transform(source.image(row)))
            except UnreadableImageError as error:
                skipped.append(error.key)
                continue
            labels.append(source.label(row))
        if images:
            known = torch.tensor(labels) if None not in labels else None
            yield ImageBatch(torch.stack(images), known)


def reconstructed(tokenizer: AnyTokenizer, device: torch.device, batch: ImageBatch) -> ImageBatch:
    """The same images through the tokenizer and back; of latents, through their mean."""
    made = tokenizer.reconstruct(to_float(batch.images.to(device)))
    return batch._replace(images=to_uint8(made).cpu())


def real_set(
    name: str,
    source: ImageSource,
    transform: Transform,
    *,
    wanted: int,
    batch_size: int,
    through: Callable[[ImageBatch], ImageBatch] | None = None,
) -> NumberedSet:
    """Real images in the order of :func:`real_batches`, at random access.

    Args:
        name: of the set.
        source: the images.
        transform: brings them to one size.
        wanted: images at most.
        batch_size: images a batch.
        through: what is done to each batch.
    """
    skipped: list[str] = []

    def between(start: int, stop: int) -> Iterable[ImageBatch]:
        """Those at positions ``[start, stop)``."""
        found = _real_between(start, stop, source, transform, batch_size, skipped)
        return found if through is None else map(through, found)

    return NumberedSet(
        name=name, between=between, positions=len(source), wanted=wanted, skipped=skipped
    )
