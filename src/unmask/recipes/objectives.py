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
    """lambda, beside the masked loss of both views (paper)."""
    temperature: Annotated[float, Between(1e-6, 1e6)] = 0.2
    """tau; from memory of the paper, to be checked."""
    hidden: Width = 2048
    """Width between the two layers, which the paper leaves open; GELU, no norm."""
    outputs: Width = 256
    """Width of the compared vectors, likewise."""
    pool: Literal["image", "all"] = "image"
    """Whether the mean is over the image positions that the encoder sees, masks among them, or
    over the class slot too; likewise."""
    negatives: Literal["other", "both"] = "other"
    """Whether an image is compared with the other view of all images, or with all views but itself
    (SimCLR); likewise."""


@dataclass(frozen=True, kw_only=True)
class Substitution(Ranged, path="substitution"):
    """Which tokens are replaced, by what, and how the adapter learns from it."""

    rate: Annotated[float, Between(above=0, at_most=1)] = 0.3
    """Share of an image's visible tokens that is replaced, half to even; at least one token."""
    dynamic: bool = False
    """Draw the share for each image, uniformly from 0 to twice the rate."""
    proposal: Literal["softmax", "double-softmax"] = "softmax"
    """What replaces a token: a code that the network finds likely there when it sees nothing but
    the class. "double-softmax" takes the softmax of its probabilities as if they were logits, which
    is close to any code at all; UnlockMGM's models were trained so."""
    fully_masked: Literal["skip", "mask"] = "skip"
    """An image that shows nothing teaches nothing; or, as UnlockMGM has it, one of its masks is
    replaced and the mask is to be named, for which the head needs an output."""
    variational: Annotated[float, Between(0, 1e6)] = 0.1
    """Weight of the squared error by which the way down fails to invert the blocks; 0 for none."""
    base_dropout: bool = True
    """Whether the frozen network's dropout is active, as in UnlockMGM."""

    def __post_init__(self) -> None:
        """Reject numbers out of range."""
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

    def choose(self, masked: Tensor, score: Tensor, u: Tensor) -> Tensor:
        """Which tokens are replaced.

        Args:
            masked: ``(B, L)`` bool.
            score: ``(B, L)`` uniform in [0, 1); the lowest of visible tokens are replaced.
            u: as of :meth:`counts`.

        Returns:
            ``(B, L)`` bool.
        """
        visible = (~masked).sum(1)
        counts = self.counts(visible, u)
        if self.fully_masked == "skip":
            counts = torch.minimum(counts, visible)
        return lowest(score.masked_fill(masked, 2.0), counts)
