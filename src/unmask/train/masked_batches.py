"""Training batches of cached codes or latents, each a pure function of (seed, step).

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
from unmask.nn.gaussian import STEPS as DIFFUSION_STEPS
from unmask.objectives.masked import LocatedBatch, locate
from unmask.train.settings import Training
from unmask.types import MaskedBatch


class TokenCache(Protocol):
    """What is read of a latent cache."""

    labels: Tensor
    """``(N,)`` int64."""
    views: int
    """1, or 2 with the mirrored image."""
    length: int
    """L."""

    @property
    def kind(self) -> str:
        """ "codes" or "moments"."""

    @property
    def channels(self) -> int:
        """C of latents."""

    def __len__(self) -> int:
        """N, images."""
        ...

    def codes(self, rows: Tensor, views: Tensor) -> Tensor:
        """``(n, L)`` int64 codes of some images in the given views."""
        ...

    def latents(self, rows: Tensor, views: Tensor, noise: Tensor) -> Tensor:
        """``(n, L, C)`` latents of some images, drawn with noise of that shape."""
        ...


class MaskedBatches(Dataset):
    """Masked training batches, by step.

    With ``normalize="global"`` one draw masks the whole batch and its masked tokens count equally.
    With "micro" each of the ``accumulate`` parts of the batch has its own draw (its own ratio, if
    shared) and counts equally as a whole, as in maskgit-pytorch; a part spans all processes.

    Args:
        cache: codes or moments, and labels.
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
        cache: TokenCache,
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
        views = self.views(step)
        labels = self._labels(rows, step)
        masks, weights = self.masks(step)
        return [
            self._locate(
                MaskedBatch(
                    tokens=self._tokens(rows, views, cut, step),
                    masked=masks.masked[cut],
                    class_labels=None if labels is None else labels[cut],
                    weight=weights[cut],
                    kept=None if masks.kept is None else masks.kept[cut],
                ),
                cut,
                step,
            )
            for cut in self.own
        ]

    def views(self, step: int) -> Tensor:
        """``(B,)`` int64, which view of each image of the whole batch."""
        count = (self.training.batch_size,)
        return torch.randint(self.cache.views, count, generator=self._stream("view", step))

    def _tokens(self, rows: Tensor, views: Tensor, cut: slice, step: int) -> Tensor:
        if self.cache.kind == "codes":
            return self.cache.codes(rows[cut], views[cut])
        shape = (self.cache.length, self.cache.channels)
        noise = [
            torch.randn(shape, generator=stream) for stream in self._each("posterior", step, cut)
        ]
        return self.cache.latents(rows[cut], views[cut], torch.stack(noise))

    def _locate(self, batch: MaskedBatch, cut: slice, step: int) -> LocatedBatch:
        """With what a head that diffuses learns from: drawn an image, over its hidden tokens."""
        if self.cache.kind == "codes":
            return locate(batch)
        repeats, times, noise = self.training.noise_repeats, [], []
        for masked, stream in zip(batch.masked, self._each("diffusion", step, cut), strict=True):
            shape = (repeats, int(masked.sum()))
            times.append(torch.randint(DIFFUSION_STEPS, shape, generator=stream))
            noise.append(torch.randn(*shape, self.cache.channels, generator=stream))
        return locate(batch, times=torch.cat(times, 1), noise=torch.cat(noise, 1))

    def _each(self, purpose: str, step: int, cut: slice) -> list[torch.Generator]:
        """One stream for each image of a part of the batch, whoever draws it."""
        return [self._stream(purpose, step, place) for place in range(cut.start, cut.stop)]

    def _stream(self, purpose: str, *key: int) -> torch.Generator:
        return keyed_generator(self.training.seed, purpose, *key)

    def _labels(self, rows: Tensor, step: int) -> Tensor | None:
        if self.classes == 0:
            return None
        labels = torch.as_tensor(self.cache.labels)[rows].long()  # (B,)
        u = torch.rand(len(rows), generator=self._stream("drop", step))
        return labels.masked_fill(u < self.training.label_dropout, self.classes)

    def masks(self, step: int) -> tuple[Masks, Tensor]:
        """Masks of the whole batch, and ``(B,)`` what each token of an image counts."""
        length = self.cache.length
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
