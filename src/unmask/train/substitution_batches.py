"""Training batches with tokens to be replaced, each a pure function of (seed, step)."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.masking import AnyMasking
from unmask.objectives.substitution import Substitution, SubstitutionBatch
from unmask.train.masked_batches import MaskedBatches, TokenCache
from unmask.train.settings import Training


class SubstitutionBatches(MaskedBatches):
    """Batches of :class:`MaskedBatches` with some visible tokens chosen to be replaced.

    What is replaced, and by which random number, is drawn for the whole batch and then cut. With
    ``normalize="global"`` every replaced token of the batch counts equally, with "micro" every
    micro-batch as a whole.

    Args:
        cache: codes and labels.
        masking: which tokens are hidden.
        options: which tokens are replaced.
        training: see :class:`MaskedBatches`, as for the rest and the errors.
        classes: 0 for an unconditional model.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self,
        cache: TokenCache,
        masking: AnyMasking,
        *,
        options: Substitution,
        training: Training,
        classes: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(cache, masking, training=training, classes=classes, rank=rank, world=world)
        self.options = options

    def __getitem__(self, step: int) -> list[SubstitutionBatch]:  # type: ignore[override]
        """This process's micro-batches of a step."""
        examples = [located.batch for located in super().__getitem__(step)]
        masked = self._masks(self.cache.length, step)[0].masked  # (B, L), of the whole batch
        stream, size = self._stream("replace", step), len(masked)
        score, uniform = torch.rand(2, *masked.shape, generator=stream)  # (B, L) each
        replaced = self.options.choose(masked, score, torch.rand(size, generator=stream))
        weights = self._weights(replaced)
        batches = []
        for batch, cut in zip(examples, self.own, strict=True):
            where = replaced[cut].flatten().nonzero().squeeze(1)  # (M,)
            chosen = uniform[cut].flatten()[where]  # (M,)
            weighted = batch._replace(weight=weights[cut])
            batches.append(SubstitutionBatch(weighted, where, chosen, torch.tensor(1 / size)))
        return batches

    def _weights(self, replaced: Tensor) -> Tensor:
        """``(B,)`` float32: what each replaced token of an image counts."""
        parts = 1 if self.training.normalize == "global" else self.training.accumulate
        totals = replaced.view(parts, -1).sum(1).clamp(min=1)  # (parts,)
        return (1 / (parts * totals.float())).repeat_interleave(len(replaced) // parts)
