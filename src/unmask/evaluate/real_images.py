"""Real images that generated ones are compared with, and what a tokenizer makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.data.build_cache import source_hash
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.numbered_set import NumberedSet
from unmask.evaluate.options import BATCH, EvaluationOptions
from unmask.pictures import to_float, to_uint8
from unmask.tokenizers.image_tokenizer import ImageTokenizer


class RealImages(NamedTuple):
    """Both sides of a data set that generated images are compared with.

    Args:
        train: Images that a model may have seen: the real floor.
        held_out: Images that it has not: the reference.
        transform: Brings them to the size of the judged images.
    """

    train: ImageSource
    held_out: ImageSource
    transform: Transform

    @property
    def still(self) -> Transform:
        """The transform without mirroring."""
        return replace(self.transform, flip=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """The rule by which images are held out, and what the source says of them."""
        return self.held_out.split_rule, *self.held_out.notes

    @property
    def identity(self) -> str:
        """Names and labels of the images, hashed, and what is done to them."""
        sides = [f"{side.name} {source_hash(side)}" for side in (self.train, self.held_out)]
        return f"{'; '.join(sides)}; {self.still}"

    def sizes(self, count: int) -> str:
        """What stands for the sizes of the files that are read for so many images a side."""
        digest = blake2b(digest_size=8)
        for side in (self.train, self.held_out):
            for row in _order(side)[:count].tolist():
                bytes_, _, *place = side.stamp(row)  # times change where files are copied
                digest.update(f"{bytes_} {place}\n".encode())
        return digest.hexdigest()

    def sets(
        self, options: EvaluationOptions, tokenizer: ImageTokenizer | None
    ) -> dict[str, NumberedSet]:
        """By name the floors, that of the tokenizer if there is one, and the reference."""
        sides = {
            "reconstruction floor": (self.held_out, tokenizer),
            "real floor": (self.train, None),
            "reference": (self.held_out, None),
        }
        if tokenizer is None:
            del sides["reconstruction floor"]
        return {name: self._set(name, *side, options) for name, side in sides.items()}

    def _set(
        self,
        name: str,
        source: ImageSource,
        tokenizer: ImageTokenizer | None,
        options: EvaluationOptions,
    ) -> NumberedSet:
        """Images in the order of :func:`real_batches`, at random access."""
        skipped: list[str] = []

        def between(start: int, stop: int) -> Iterable[ImageBatch]:
            """Images at positions ``[start, stop)``, through the tokenizer if there is one."""
            size = options.measured
            found = real_between((start, stop), source, self.still, size, skipped)
            if tokenizer is None:
                return found
            return (reconstructed(tokenizer, options.place, batch) for batch in found)

        return NumberedSet(
            name=name, between=between, positions=len(source), wanted=options.count, skipped=skipped
        )


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
    for images, labels in real_between((0, len(source)), source, transform, batch_size, unread):
        yield ImageBatch(images[:count], None if labels is None else labels[:count])
        count -= len(images)
        if count <= 0:
            return


def _order(source: ImageSource) -> Tensor:
    """``(N,)`` int64, all rows in a random order that their number decides."""
    return torch.randperm(len(source), generator=keyed_generator("real", len(source)))


def real_between(
    ends: tuple[int, int],
    source: ImageSource,
    transform: Transform,
    batch_size: int,
    skipped: list[str],
) -> Iterator[ImageBatch]:
    """Images at positions of the order; keys of unreadable ones go to ``skipped``."""
    for rows in _order(source)[slice(*ends)].split(batch_size):
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


def reconstructed(tokenizer: ImageTokenizer, device: torch.device, batch: ImageBatch) -> ImageBatch:
    """Images sent through the tokenizer and back; latents by their mean."""
    made = tokenizer.reconstruct(to_float(batch.images.to(device)))
    return batch._replace(images=to_uint8(made).cpu())
