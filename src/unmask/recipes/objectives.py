"""What a training minimises beside the masked loss, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.masking import lowest
from unmask.networks.sizes import Width
from unmask.ranges import Between, Ranged


@dataclass(frozen=True, kw_only=True)
class Contrastive(Ranged, path="contrastive"):
    """How views are told apart."""

    weight: Annotated[float, Between(0, 1e6)] = 0.1
    """Weight lambda of the contrastive loss, beside the masked loss of both views (paper)."""
    temperature: Annotated[float, Between(1e-6, 1e6)] = 0.2
    """Temperature tau of InfoNCE; from memory of the paper, to be checked."""
    hidden: Width = 2048
    """Width between the two layers of the projection (GELU, no norm); the paper leaves it open."""
    outputs: Width = 256
    """Width of the compared vectors; the paper leaves it open."""
    pool: Literal["image", "all"] = "image"
    """Positions of the encoder that are averaged: those of the image, masks among them, or "all"
    with the class slot; the paper leaves it open."""
    negatives: Literal["other", "both"] = "other"
    """What an image is compared with: the "other" view of all images, or "both" views of all but
    itself (SimCLR); the paper leaves it open."""


@dataclass(frozen=True, kw_only=True)
class Substitution(Ranged, path="substitution"):
    """How tokens are replaced, and how the adapter learns to repair them."""

    rate: Annotated[float, Between(above=0, at_most=1)] = 0.3
    """Share of an image's visible tokens that is replaced, rounded half to even; at least one."""
    dynamic: bool = False
    """Draw the replaced share for each image, uniformly from 0 to twice the rate."""
    proposal: Literal["softmax", "double-softmax"] = "softmax"
    """What replaces a token: a code that the network finds likely there when it sees nothing but
    the class. "double-softmax" takes the softmax of its probabilities as if they were logits, which
    is close to any code at all; UnlockMGM's models were trained so."""
    fully_masked: Literal["skip", "mask"] = "skip"
    """What becomes of images that show no token: "skip" learns nothing from them; "mask", as in
    UnlockMGM, replaces one of their masks, which is to be named, so the head needs an output for
    it."""
    variational: Annotated[float, Between(0, 1e6)] = 0.1
    """Weight of the variational term, the squared error by which the adapter's way down fails to
    invert the blocks; 0 for none."""
    base_dropout: bool = True
    """Whether the frozen network's dropout is active, as in UnlockMGM."""

    def __post_init__(self) -> None:
        """Reject a rate that drawing up to twice of it would take beyond 1."""
        super().__post_init__()
        if self.dynamic and self.rate > 0.5:
            raise InputError(
                f"substitution.rate={self.rate} must lie in (0, 0.5] with substitution.dynamic, "
                "which draws up to twice the rate"
            )

    def counts(self, visible: Tensor, u: Tensor) -> Tensor:
        """How many tokens are replaced.

        Args:
            visible: ``(B,)`` int64, tokens that are not masked.
            u: ``(B,)`` float32 in [0, 1); read only if ``dynamic``.

        Returns:
            ``(B,)`` int64, at least 1.
        """
        share = 2 * self.rate * u if self.dynamic else self.rate
        return (visible.float() * share).round().long().clamp(min=1)

    def replaced(self, visible: Tensor, u: Tensor) -> Tensor:
        """``(B,)`` int64: the counts, less what an image that is skipped cannot give."""
        counts = self.counts(visible, u)
        return torch.minimum(counts, visible) if self.fully_masked == "skip" else counts

    def choose(self, masked: Tensor, score: Tensor, u: Tensor) -> Tensor:
        """Choose the tokens that are replaced.

        Args:
            masked: ``(B, L)`` bool.
            score: ``(B, L)`` uniform in [0, 1); the lowest of visible tokens are replaced.
            u: ``(B,)`` float32 in [0, 1); read only if ``dynamic``.

        Returns:
            ``(B, L)`` bool.
        """
        counts = self.replaced((~masked).sum(1), u)  # (B,)
        return lowest(score.masked_fill(masked, 2.0), counts)
