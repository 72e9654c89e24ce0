"""Training batches: batch k is a pure function of the seed and k.

So a run resumes from a number, several processes cut shares out of one batch, and no loader has a
state worth saving.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.text import some

MicroBatch = tuple[Tensor, Tensor | None]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=keyed_generator(seed, "epoch", epoch))


def check_batch_size(count: int, batch_size: int) -> None:
    """Reject a batch larger than the data.

    Raises:
        InputError: naming both numbers.
    """
    if not 1 <= batch_size <= count:
        raise InputError(
            f"batch_size={batch_size} does not fit the {count} images; use 1 to {count}"
        )


def epoch_rows(count: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Rows of global batch ``step``: each epoch a new permutation, its remainder dropped.

    Args:
        count: images of the data set.
        batch_size: B, rows of a global batch.
        seed: of the run.
        step: 0-based number of the batch over all epochs.

    Returns:
        ``(B,)`` int64, distinct, in [0, count).

    Raises:
        InputError: ``batch_size`` exceeds ``count``.
    """
    check_batch_size(count, batch_size)
    epoch, batch = divmod(step, count // batch_size)
    return _epoch_order(count, seed, epoch)[batch * batch_size :][:batch_size].clone()


class Share(TypedDict, total=False):
    """Arguments of :func:`share_rows` by name, less the rows."""

    rank: int
    world: int
    accumulate: int
    micro_batch_size: int | None


def share_rows(
    rows: Tensor,
    *,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    micro_batch_size: int | None = None,
) -> list[slice]:
    """Parts of a global batch that one process takes.

    Every process takes equally many rows, in micro-batches of equal size, of which the last one is
    smaller where they do not divide (maskgit-pytorch, ``train.py``).

    Args:
        rows: ``(B,)``, the global batch.
        rank: of the process, in [0, world).
        world: number of processes.
        accumulate: micro-batches on each process, each of B / world / accumulate rows, rounded up;
            that may leave the last ones nothing to take.
        micro_batch_size: rows of a micro-batch on each process instead.

    Returns:
        One slice of ``rows`` a micro-batch. Micro-batch m of all processes is one range, cut by
        rank.

    Raises:
        InputError: the batch does not divide among the processes.
    """
    share, rest = divmod(len(rows), world)
    if rest or not share:
        raise InputError(
            f"batch_size={len(rows)} does not divide by {world} processes; choose a multiple of "
            f"{world}"
        )
    size = micro_batch_size or -(-share // accumulate)
    parts = [(start, min(size, share - start)) for start in range(0, share, size)]
    return [slice(world * s + rank * n, world * s + (rank + 1) * n) for s, n in parts]


class BadImages:
    """Remembers which images could not be read, across the worker processes of a loader.

    Args:
        source: the images; names in reports are its keys.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self._bad = torch.zeros(len(source), dtype=torch.bool).share_memory_()  # (N,)
        self._reported = 0

    def __len__(self) -> int:
        """Images found unreadable so far."""
        return int(self._bad.sum())

    def add(self, row: int) -> None:
        """Remember one; in any process."""
        self._bad[row] = True

    def rows(self) -> list[int]:
        """The unreadable rows, ascending."""
        return self._bad.nonzero().flatten().tolist()

    def names(self) -> list[str]:
        """Their keys, in the order of the rows."""
        return [self.source.key(row) for row in self.rows()]

    def news(self) -> str | None:
        """One line about the images replaced so far, or None if there are no new ones."""
        names = self.names()
        if len(names) == self._reported:
            return None
        self._reported = len(names)
        total = len(self.source)
        return f"{len(names)} of {total} images cannot be read and were replaced: {some(names, 5)}"


class ImageBatches(Dataset[list[MicroBatch]]):
    """The batches of a training run; item k is one process's share of global batch k.

    Random crops and flips of an image depend on the seed, k and its place in the global batch,
    so not on the number of processes. An unreadable image is replaced by the next readable row.

    Args:
        source: the images.
        transform: what is cut out of them.
        batch_size: images of a global batch.
        seed: of the run.
        steps: length of the run, in batches.
        share: which part of each global batch this process takes; see :func:`share_rows`.

    The attributes ``own`` and ``bad`` hold the parts of the global batch that this process takes,
    and the images that could not be read.

    Raises:
        InputError: the batch exceeds the data, or does not divide by the processes.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Transform,
        *,
        batch_size: int,
        seed: int,
        steps: int,
        **share: Unpack[Share],
    ) -> None:
        check_batch_size(len(source), batch_size)
        self.own = share_rows(torch.arange(batch_size), **share)
        self.source = source
        self.transform = transform
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.bad = BadImages(source)

    def __len__(self) -> int:
        """Batches of the run."""
        return self.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        """This process's share of batch ``step``.

        Returns:
            One pair a micro-batch of b images: ``(b, C, H, W)`` uint8 and ``(b,)`` int64 labels,
            None for unlabelled images.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f"batch {step} of a run of {self.steps}")
        rows = epoch_rows(len(self.source), self.batch_size, self.seed, step)
        return [self._micro_batch(rows[part].tolist(), step, part.start) for part in self.own]

    def _micro_batch(self, rows: list[int], step: int, first: int) -> MicroBatch:
        pairs = [self._example(row, step, first + i) for i, row in enumerate(rows)]
        images = torch.stack([image for image, _ in pairs])  # (b, C, S, S)
        labels = [label for _, label in pairs if label is not None]
        return images, torch.tensor(labels) if labels else None

    def _example(self, row: int, step: int, place: int) -> tuple[Tensor, int | None]:
        random = self.transform.random
        generator = keyed_generator(self.seed, "augment", step, place) if random else None
        for candidate in (*range(row, len(self.source)), *range(row)):
            try:
                image = self.source.image(candidate)
            except UnreadableImageError:
                self.bad.add(candidate)
                continue
            return self._cut(image, candidate, generator), self.source.label(candidate)
        raise InputError(f"none of the {len(self.source)} images of {self.source.name} can be read")

    def _cut(self, image: Image.Image, row: int, generator: torch.Generator | None) -> Tensor:
        try:
            return self.transform(image, generator)
        except InputError as error:
            raise InputError(f"{self.source.key(row)}: {error}") from error
