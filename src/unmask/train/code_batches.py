"""Training batches of cached codes, each a pure function of (seed, step).

Rows, views, masks and dropped labels are drawn for the whole global batch and then cut, so any
number of processes sees the same examples.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batches import check_batch_size, epoch_rows, share_rows
from unmask.draws import keyed_generator
from unmask.masking import AnyMasking, Masks
from unmask.objectives.masked import LocatedBatch, locate
from unmask.train.settings import Training
from unmask.types import MaskedBatch


class CodeCache(Protocol):
    """What is read of a latent cache of codes."""

    labels: Tensor
    """``(N,)`` int64."""
    views: int
    """1, or 2 with the mirrored image."""

    def __len__(self) -> int:
        """N, images."""
        ...

    def codes(self, rows: Tensor, views: Tensor) -> Tensor:
        """``(n, L)`` int64 codes of some images in the given views."""
        ...


class CodeBatches(Dataset):
    """Masked training batches, by step.

    With ``normalize="global"`` one draw masks the whole batch and its masked tokens count equally.
    With "micro" each of the ``accumulate`` parts of the batch has its own draw (its own ratio, if
    shared) and counts equally as a whole, as in maskgit-pytorch; a part spans all processes.

    Args:
        cache: codes and labels.
        masking: which tokens are hidden.
        training: batch size, micro-batches, normalisation, label dropout, seed.
        classes: 0 for an unconditional model; the null class is ``classes``.
        rank: this process, in [0, world).
        world: number of processes.
        total_steps: length of the run.

    Raises:
        InputError: if the batch exceeds the images, or does not divide among processes and
            micro-batches.
    """

    def __init__(
        self,
        cache: CodeCache,
        masking: AnyMasking,
        *,
        training: Training,
        classes: int,
        rank: int = 0,
        world: int = 1,
        total_steps: int | None = None,
    ) -> None:
        check_batch_size(len(cache), training.batch_size)
        self.cache, self.masking, self.training = cache, masking, training
        self.classes = classes
        every = torch.arange(training.batch_size)
        self.own = share_rows(every, rank=rank, world=world, accumulate=training.accumulate)
        self.steps = training.steps if total_steps is None else total_steps

    def __len__(self) -> int:
        """Steps of the run."""
        return self.steps

    def __getitem__(self, step: int) -> list[LocatedBatch]:
        """This process's micro-batches of a step."""
        size, seed = self.training.batch_size, self.training.seed
        rows = epoch_rows(len(self.cache), size, seed=seed, step=step)  # (B,)
        views = torch.randint(self.cache.views, (size,), generator=self._stream("view", step))
        labels = self._labels(rows, step)
        codes = [self.cache.codes(rows[cut], views[cut]) for cut in self.own]  # each (b, L)
        masks, weights = self._masks(codes[0].shape[1], step)
        return [
            locate(
                MaskedBatch(
                    tokens=tokens,
                    masked=masks.masked[cut],
                    class_labels=None if labels is None else labels[cut],
                    weight=weights[cut],
                    kept=None if masks.kept is None else masks.kept[cut],
                )
            )
            for tokens, cut in zip(codes, self.own, strict=True)
        ]

    def _stream(self, purpose: str, *key: int) -> torch.Generator:
        return keyed_generator(self.training.seed, purpose, *key)

    def _labels(self, rows: Tensor, step: int) -> Tensor | None:
        if self.classes == 0:
            return None
        labels = torch.as_tensor(self.cache.labels)[rows].long()  # (B,)
        u = torch.rand(len(rows), generator=self._stream("drop", step))
        return labels.masked_fill(u < self.training.label_dropout, self.classes)

    def _masks(self, length: int, step: int) -> tuple[Masks, Tensor]:
        """Masks of the whole batch, and ``(B,)`` what each token of an image counts."""
        size, parts = self.training.batch_size, self.training.accumulate
        if self.training.normalize == "global":
            masks = self.masking.draw(size, length, self._stream("mask", step))
            weight = torch.ones(size) if masks.weight is None else masks.weight
            return masks, weight / masks.masked.sum()
        drawn = [
            self.masking.draw(size // parts, length, self._stream("mask", step, part))
            for part in range(parts)
        ]
        weights = [torch.ones(size // parts) / (parts * m.masked.sum()) for m in drawn]
        return Masks(torch.cat([m.masked for m in drawn])), torch.cat(weights)
