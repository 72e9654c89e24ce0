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

    What is replaced, and by which random number, is drawn for the whole batch and then cut. Every
    replaced token of a group of the masked batches counts equally, and a group by its images.

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
        masks = self.masked.masks(step)
        hidden = masks.masked  # (B, L), of the whole batch
        stream, size = keyed_generator(self.masked.training.seed, "replace", step), len(hidden)
        score, uniform = torch.rand(2, *hidden.shape, generator=stream)  # (B, L) each
        replaced = self.options.choose(hidden, score, torch.rand(size, generator=stream))
        weights, batches = self._weights(replaced), []
        cuts = [cut for part in self.masked.own for cut, _ in masks.pieces(part)]
        for (batch, *_), cut in zip(self.masked[step], cuts, strict=True):
            where = replaced[cut].flatten().nonzero().squeeze(1)  # (M,)
            chosen = uniform[cut].flatten()[where]  # (M,)
            weighted = batch._replace(weight=weights[cut])
            batches.append(SubstitutionBatch(weighted, where, chosen, torch.tensor(1 / size)))
        return batches

    def _weights(self, replaced: Tensor) -> Tensor:
        """``(B,)`` float32: what each replaced token of an image counts."""
        weights = []
        for rows in self.masked.groups:
            part = replaced[rows]  # (n, L)
            total, share = part.sum().clamp(min=1), len(replaced) / len(part)
            weights.append((1 / (total * share)).expand(len(part)))
        return torch.cat(weights)
