"""Labelled training batches, each a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batches import ImageBatches, MicroBatch, check_batch_size, epoch_rows, share_rows
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.mixing import Mixing, MixPlan, draw_mixing
from unmask.probe.objective import LabelledBatch
from unmask.train.settings import Training

Lookup = Callable[[Tensor, Tensor], Tensor]
"""Rows and views, ``(n,)`` int64 each, to codes ``(n, L)`` or features ``(n, D)``."""


class StoredBatches(Dataset[list[MicroBatch]]):
    """Batches of codes or features that were computed before.

    Args:
        lookup: reads them, such as ``LatentCache.codes``.
        labels: ``(N,)`` int64.
        views: variants of each image, one of which is drawn.
        training: batch, micro-batches, length and seed of the run.
        rank: this process, in [0, world).
        world: number of processes.

    Raises:
        InputError: the batch exceeds the images or does not divide among processes.
    """

    def __init__(
        self,
        lookup: Lookup,
        labels: Tensor,
        *,
        views: int,
        training: Training,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_batch_size(len(labels), training.batch_size)
        self.lookup, self.labels, self.views, self.training = lookup, labels, views, training
        every = torch.arange(training.batch_size)
        self.own = share_rows(every, rank=rank, world=world, accumulate=training.accumulate)

    def __len__(self) -> int:
        """Steps of the run."""
        return self.training.steps

    def __getitem__(self, step: int) -> list[MicroBatch]:
        """This process's micro-batches of a step."""
        size, seed = self.training.batch_size, self.training.seed
        rows = epoch_rows(len(self.labels), size, seed, step)  # (B,)
        views = torch.randint(self.views, (size,), generator=keyed_generator(seed, "view", step))
        return [(self.lookup(rows[cut], views[cut]), self.labels[rows[cut]]) for cut in self.own]


class LabelledBatches(Dataset[list[LabelledBatch]]):
    """The same or images, with a plan how they are mixed.

    Args:
        inputs: pairs of inputs and labels.
        training: batch, micro-batches and seed of the run.
        mixing: None mixes nothing.
        rank: this process, in [0, world).
        world: number of processes.

    Raises:
        InputError: groups do not divide a micro-batch.
    """

    def __init__(
        self,
        inputs: ImageBatches | StoredBatches,
        training: Training,
        *,
        mixing: Mixing | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        every = torch.arange(training.batch_size)
        self.own = share_rows(every, rank=rank, world=world, accumulate=training.accumulate)
        self.inputs, self.training = inputs, training
        self.mixing = mixing if mixing is not None and mixing.on else None
        if self.mixing:
            self.mixing.check(self.own[0].stop - self.own[0].start)

    def __len__(self) -> int:
        """Steps of the run."""
        return len(self.inputs)

    def __getitem__(self, step: int) -> list[LabelledBatch]:
        """This process's micro-batches of a step."""
        batches = []
        for (inputs, labels), cut in zip(self.inputs[step], self.own, strict=True):
            if labels is None:
                raise InputError("the images have no labels; a classifier needs them")
            size = (inputs.shape[-2], inputs.shape[-1])
            plan = self._plan(self.mixing, size, step, cut) if self.mixing else None
            batches.append(LabelledBatch(inputs, labels, plan))
        return batches

    def _plan(self, mixing: Mixing, size: tuple[int, int], step: int, cut: slice) -> MixPlan:
        """Groups are counted over the whole batch, whoever computes them."""
        numbers = range(cut.start // mixing.group, cut.stop // mixing.group)
        seed = self.training.seed
        plans = [
            draw_mixing(mixing, size, keyed_generator(seed, "mix", step, number))
            for number in numbers
        ]
        return MixPlan(*map(torch.cat, zip(*plans, strict=True)))
