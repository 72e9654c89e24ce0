"""Which tokens a training example hides.

A ratio is drawn, rounded to a count, and the ``count`` positions of lowest random score are hidden;
:func:`lowest` is the same rule by which decoding chooses what stays masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unmask.curves import find_curve, masked_share


def lowest(score: Tensor, count: Tensor) -> Tensor:
    """Mark the positions of lowest score in each row.

    Args:
        score: ``(B, L)``; equal scores are taken in an unspecified order, never more than asked.
        count: ``(B,)`` int64 in [0, L].

    Returns:
        ``(B, L)`` bool with exactly ``count`` true in each row.
    """
    length = score.shape[1]
    chosen = torch.arange(length, device=score.device) < count[:, None]  # (B, L), by rank
    return torch.zeros_like(chosen).scatter(1, score.argsort(1), chosen)


@dataclass(frozen=True, kw_only=True)
class TrainMasking:
    """The mask of a training batch: ratio = curve(u), u uniform, then a rounded count.

    MaskGIT (arXiv 2202.04200, section 3.1). maskgit-pytorch shares one ratio by the batch and
    rounds up; UnlockMGM draws one an image and rounds half to even, at least one token.
    """

    curve: str = "cosine"
    """Masked share against u, a name of ``unmask.curves``."""
    shared: bool = False
    """One ratio for the whole (micro-)batch instead of one an image."""
    rounding: Literal["up", "nearest"] = "nearest"
    """Of ratio x tokens, half to even for "nearest"; always at least one token."""
    least_ratio: float = 0.0
    """Smaller ratios are raised to this one."""

    def __post_init__(self) -> None:
        """Reject an unknown curve."""
        find_curve(self.curve, 1)

    def counts(self, u: Tensor, total: int) -> Tensor:
        """Masked tokens for uniform numbers ``u`` (any shape, float64 for exact published counts).

        Returns:
            int64 of the same shape, in [1, total].
        """
        share = masked_share(self.curve, u, total=total).clamp(min=self.least_ratio)
        size = (share * total).ceil() if self.rounding == "up" else (share * total).round()
        return size.long().clamp(1, total)

    def masks(self, batch: int, total: int, generator: torch.Generator) -> Tensor:
        """Random masks.

        Args:
            batch: B, all rows of the (micro-)batch that share a ratio if ``shared``.
            total: L.
            generator: the stream; ratios are drawn first, then ``(B, L)`` scores.

        Returns:
            ``(B, L)`` bool, true where the token is hidden.
        """
        ratios = 1 if self.shared else batch
        u = torch.rand(ratios, generator=generator, dtype=torch.float64)
        score = torch.rand(batch, total, generator=generator)  # (B, L)
        return lowest(score, self.counts(u, total).expand(batch))
