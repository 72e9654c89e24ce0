"""What a probe and a fine-tuning minimise."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.pictures import to_float
from unmask.probe.mixing import MixPlan, mix, mix_targets, soft_targets
from unmask.recipes.training import Training

Represent = Callable[[Tensor], Tensor]
"""From what a batch holds to what the trained part reads: nothing is trained in it."""


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

    def forward(self, batch: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MixPlan]) -> dict:
        """The loss.

        Args:
            batch: ``(B, C, H, W)`` uint8 images, ``(B, L)`` codes or ``(B, D)`` features; ``(B,)``
                int64 labels; and how the images are mixed, if they are.
        """
        inputs, labels, *plans = batch
        with torch.no_grad():
            if inputs.dtype == torch.uint8:
                inputs = to_float(inputs)  # images travel as bytes
            mixed = [mix(inputs, plan) for plan in plans]  # one or none
            inputs = self.represent(mixed[0][0] if mixed else inputs)
        scores = self.averaged(inputs).float()  # (B, K)
        targets = soft_targets(labels, scores.shape[1], smoothing=self.smoothing)
        for _, share in mixed:
            targets = mix_targets(targets, share)
        return {"loss": F.cross_entropy(scores, targets, reduction="sum") / self.batch_size}
