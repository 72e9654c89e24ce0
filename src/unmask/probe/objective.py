"""What a probe and a fine-tuning minimise."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.probe.mixing import MixPlan, mix, mix_targets, soft_targets
from unmask.train.settings import Training

Represent = Callable[[Tensor], Tensor]
"""From what a batch holds to what the trained part reads: nothing is trained in it."""


class LabelledBatch(NamedTuple):
    """One micro-batch."""

    inputs: Tensor
    """``(B, C, H, W)`` uint8 images, ``(B, L)`` int64 codes or ``(B, D)`` features."""
    labels: Tensor
    """``(B,)`` int64."""
    mixing: MixPlan | None = None
    """How the images are mixed."""


class ClassifierObjective(nn.Module):
    """Cross-entropy with the labels, softened and mixed as asked: an ``Objective``.

    Args:
        averaged: the trained part, to ``(B, K)`` scores.
        represent: runs before it without gradients; its weights are not saved with the run.
        batch_size: images of a global batch.
        smoothing: share of the target spread over all classes, in [0, 1).
        optimizer: makes the optimiser of ``averaged``.
    """

    def __init__(
        self,
        averaged: nn.Module,
        represent: Represent,
        *,
        batch_size: int,
        smoothing: float = 0.0,
        optimizer: Callable[[Training], Optimizer],
    ) -> None:
        super().__init__()
        self.averaged, self.represent = averaged, represent
        self.batch_size, self.smoothing = batch_size, smoothing
        self.make_optimizer = optimizer

    def forward(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Loss and, of unmixed images, the share named rightly."""
        share = None
        with torch.no_grad():
            inputs = batch.inputs
            if inputs.dtype == torch.uint8:
                inputs = inputs.float() / 255  # images travel as bytes
            if batch.mixing is not None:
                inputs, share = mix(inputs, batch.mixing)
            inputs = self.represent(inputs)
        scores = self.averaged(inputs).float()  # (B, K)
        targets = soft_targets(batch.labels, scores.shape[1], smoothing=self.smoothing)
        if share is not None:
            targets = mix_targets(targets, share)
        loss = F.cross_entropy(scores, targets, reduction="sum") / self.batch_size
        if share is not None:
            return {"loss": loss}
        right = (scores.detach().argmax(1) == batch.labels).sum() / self.batch_size
        return {"loss": loss, "accuracy": right}
