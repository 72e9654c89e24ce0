"""Training batches with tokens to be replaced, each a pure function of (seed, step)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.draws import keyed_generator
from unmask.objectives.substitution import Substitution, SubstitutionBatch
from unmask.train.masked_batches import MaskedBatches


class SubstitutionBatches(Dataset):
    """Masked batches in which some visible tokens are chosen to be replaced.

    What is replaced, and by which random number, is drawn for the whole batch and then cut. With
    ``normalize="global"`` every replaced token of the batch counts equally, with "micro" every
    micro-batch as a whole.

    Args:
        masked: this process's masked batches, of codes.
        options: which tokens are replaced.
    """

    def __init__(self, masked: MaskedBatches, options: Substitution) -> None:
        self.masked, self.options = masked, options

    def __len__(self) -> int:
        """Steps of the run."""
        return len(self.masked)

    def __getitem__(self, step: int) -> list[SubstitutionBatch]:
        """This process's micro-batches of a step."""
        hidden = self.masked.masks(step)[0].masked  # (B, L), of the whole batch
        stream, size = keyed_generator(self.masked.training.seed, "replace", step), len(hidden)
        score, uniform = torch.rand(2, *hidden.shape, generator=stream)  # (B, L) each
        replaced = self.options.choose(hidden, score, torch.rand(size, generator=stream))
        weights, batches = self._weights(replaced), []
        for (batch, *_), cut in zip(self.masked[step], self.masked.own, strict=True):
            where = replaced[cut].flatten().nonzero().squeeze(1)  # (M,)
            chosen = uniform[cut].flatten()[where]  # (M,)
            weighted = batch._replace(weight=weights[cut])
            batches.append(SubstitutionBatch(weighted, where, chosen, torch.tensor(1 / size)))
        return batches

    def _weights(self, replaced: Tensor) -> Tensor:
        """``(B,)`` float32: what each replaced token of an image counts."""
        training = self.masked.training
        parts = 1 if training.normalize == "global" else training.accumulate
        totals = replaced.view(parts, -1).sum(1).clamp(min=1)  # (parts,)
        return (1 / (parts * totals.float())).repeat_interleave(len(replaced) // parts)
