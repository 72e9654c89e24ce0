"""Predict the hidden tokens from the visible ones: the loss of MaskGIT and its kin.

MaskGIT (arXiv 2202.04200), eq. 3: the mean negative log-likelihood of the masked tokens.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

from torch import Tensor, nn

from unmask.types import Canvas, Hidden, MaskedBatch


class LocatedBatch(NamedTuple):
    """A batch that knows where its hidden tokens are.

    The loader finds them while the batch is still in its own memory: asking a device for the
    number of masked tokens would make the host wait in every step.
    """

    batch: MaskedBatch
    """The examples."""
    where: Tensor
    """``(M,)`` int64, positions of the masked tokens in the flattened ``(B, L)``, ascending."""


def locate(batch: MaskedBatch) -> LocatedBatch:
    """Find the masked positions; a device that holds the batch is waited for."""
    return LocatedBatch(batch, batch.masked.flatten().nonzero().squeeze(1))


class _Head(Protocol):
    def loss(self, features: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
        """``(M,)`` losses."""


class _Network(Protocol):
    head: _Head

    def hidden(self, canvas: Canvas, class_labels: Tensor | None) -> Hidden:
        """Features of every position."""


class MaskedObjective(nn.Module):
    """Weighted sum of the token losses at masked positions, where alone the head is applied.

    Args:
        model: an :class:`unmask.model.MaskedModel`.
        label_smoothing: share of the target spread over all codes, in [0, 1).
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.averaged = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: MaskedBatch | LocatedBatch) -> dict[str, Tensor]:
        """The loss of one micro-batch.

        Args:
            batch: ``(B, L)`` examples; without positions they are looked up first.

        Returns:
            "loss", a float32 scalar already weighted by ``batch.weight``.
        """
        examples, where = batch if isinstance(batch, LocatedBatch) else locate(batch)
        model = cast(_Network, self.averaged)
        canvas = Canvas(examples.tokens, examples.masked)
        hidden = model.hidden(canvas, examples.class_labels).tokens  # (B, L, D)
        features = hidden.flatten(0, 1).index_select(0, where)  # (M, D)
        targets = examples.tokens.flatten(0, 1).index_select(0, where)  # (M,) or (M, C)
        losses = model.head.loss(features, targets, label_smoothing=self.label_smoothing)  # (M,)
        return {"loss": losses.sum() * examples.weight}
