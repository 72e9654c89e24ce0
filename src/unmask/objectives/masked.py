"""Predict the hidden tokens from the visible ones: the loss of MaskGIT and its kin.

MaskGIT (arXiv 2202.04200), eq. 3: the mean negative log-likelihood of the masked tokens. MAR
(arXiv 2406.11838), eq. 2: a diffusion loss in its place.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from unmask.nn.diffusion import DiffusionHead
from unmask.nn.model import MaskedModel
from unmask.types import Canvas, Hidden, MaskedBatch


class LocatedBatch(NamedTuple):
    """A batch that knows where its hidden tokens are.

    The loader finds them while the batch is still in its own memory: asking a device for the
    number of masked tokens would make the host wait in every step.

    Args:
        batch: The examples.
        where: ``(M,)`` int64, positions of the masked tokens in the flattened ``(B, L)``,
            ascending.
        read: ``(B, M / B)`` int64, those positions by row; None where rows hide unequally many.
        times: ``(R, M)`` int64, diffusion steps, for heads that diffuse.
        noise: ``(R, M, C)`` standard normal, for heads that diffuse.
    """

    batch: MaskedBatch
    where: Tensor
    read: Tensor | None
    times: Tensor | None = None
    noise: Tensor | None = None


def locate(
    batch: MaskedBatch, *, times: Tensor | None = None, noise: Tensor | None = None
) -> LocatedBatch:
    """Find the masked positions; a device that holds the batch is waited for."""
    where = batch.masked.flatten().nonzero().squeeze(1)
    counts = batch.masked.sum(1)
    read = None
    if bool((counts == counts[0]).all()):
        read = where.view(len(counts), -1) % batch.masked.shape[1]
    return LocatedBatch(batch, where, read, times, noise)


class MaskedObjective(nn.Module):
    """Weighted sum of the token losses at masked positions, where alone the head is applied.

    Args:
        model: an :class:`unmask.nn.model.MaskedModel`.
        label_smoothing: share of the target spread over all codes, in [0, 1); of categorical heads.
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
        located = batch if isinstance(batch, LocatedBatch) else locate(batch)
        return self.losses(cast(MaskedModel, self.averaged), located)

    def losses(self, model: MaskedModel, located: LocatedBatch) -> dict[str, Tensor]:
        """The loss of a batch whose masked positions are known."""
        examples = located.batch
        canvas = Canvas(examples.tokens, examples.masked, examples.kept)
        hidden = model.hidden(canvas, examples.class_labels, located.read)  # (B, N, D)
        return {"loss": self.weigh(model, hidden, located)}

    def weigh(self, model: MaskedModel, hidden: Hidden, located: LocatedBatch) -> Tensor:
        """The weighted sum of what the head loses, of features at the positions read or at all."""
        examples, where = located.batch, located.where
        features = hidden.tokens.flatten(0, 1)  # (B L or M, D)
        if located.read is None:
            features = features.index_select(0, where)  # (M, D)
        targets = examples.tokens.flatten(0, 1).index_select(0, where)  # (M,) or (M, C)
        rows, length = examples.masked.shape
        weight = examples.weight.expand(rows)[where // length]  # (M,)
        return (self._losses(model, features, targets, located) * weight).sum()

    def _losses(
        self, model: MaskedModel, features: Tensor, targets: Tensor, located: LocatedBatch
    ) -> Tensor:
        """``(M,)`` float32 losses of ``(M, D)`` features."""
        times, noise = located.times, located.noise
        if isinstance(model.head, DiffusionHead):
            assert times is not None, "a head that diffuses needs times"
            assert noise is not None, "a head that diffuses needs noise"
            return model.head.loss(features, targets, times=times, noise=noise)
        return model.head.loss(features, targets, label_smoothing=self.label_smoothing)
