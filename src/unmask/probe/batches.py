"""Labelled training batches, each a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batches import ImageBatches, MicroBatch
from unmask.draws import keyed_generator
from unmask.probe.mixing import Mixing, MixPlan, draw_mixing

Lookup = Callable[[Tensor, Tensor], Tensor]
"""Rows and views, ``(n,)`` int64 each, to codes ``(n, L)`` or features ``(n, D)``."""


class StoredBatches(ImageBatches):
    """Batches of codes or features that were computed before, each in a view that is drawn.

    Args:
        lookup: reads them, such as ``LatentCache.codes``.
        labels: ``(N,)`` int64.
        views: variants of each image.
        batches: as of :class:`unmask.data.batches.ImageBatches`, whose images are not looked at.
    """

    def __init__(self, lookup: Lookup, labels: Tensor, *, views: int, **batches: Any) -> None:
        super().__init__(**batches)
        self.lookup, self.labels, self.views = lookup, labels, views

    def _micro_batch(self, rows: list[int], step: int, first: int) -> MicroBatch:
        stream = keyed_generator(self.seed, "view", step)
        views = torch.randint(self.views, (self.batch_size,), generator=stream)  # (B,)
        where = torch.tensor(rows)
        return self.lookup(where, views[first : first + len(rows)]), self.labels[where]


class MixedBatches(Dataset[list[tuple[Tensor, Tensor | None, MixPlan]]]):
    """Batches of images with a plan how they are mixed, which happens on the device.

    Raises:
        InputError: groups do not divide a micro-batch.
    """

    def __init__(self, images: ImageBatches, mixing: Mixing) -> None:
        for part in images.own:
            mixing.check(part.stop - part.start)
        self.images, self.mixing = images, mixing

    def __len__(self) -> int:
        """Steps of the run."""
        return len(self.images)

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor | None, MixPlan]]:
        """This process's micro-batches; groups are counted over the whole batch."""
        return [
            (images, labels, self._plan(images, step, part.start // self.mixing.group))
            for part, (images, labels) in zip(self.images.own, self.images[step], strict=True)
        ]

    def _plan(self, images: Tensor, step: int, first: int) -> MixPlan:
        groups, size = len(images) // self.mixing.group, (images.shape[2], images.shape[3])
        streams = [
            keyed_generator(self.images.seed, "mix", step, number)
            for number in range(first, first + groups)
        ]
        plans = [draw_mixing(self.mixing, size, stream) for stream in streams]
        return MixPlan(*map(torch.cat, zip(*plans, strict=True)))
