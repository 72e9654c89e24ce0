"""Guidance: away from a weak prediction, ``weak + s (strong - weak)``, s = 1 meaning none.

Classifier-free guidance (arXiv 2207.12598) takes the null class as the weak branch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.model import MaskedModel
from unmask.types import Canvas


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and away from what."""

    scale: float = 1.0
    """s; 1 means none, larger trades diversity for fidelity."""
    weak: Literal["null"] = "null"
    """The weak branch: "null" predicts without the class."""
    ramp: Literal["constant", "steps", "revealed", "power-cosine"] = "constant"
    """How s rises from 1: with t/T ("steps", maskgit-pytorch's "linear"), with the share of known
    tokens after the step ("revealed", its "linear-r" and MAR's "linear"), or with
    (1 - cos(pi (t/T)^power)) / 2."""
    power: float = 1.0
    """Exponent of the "power-cosine" ramp."""

    def __post_init__(self) -> None:
        """Reject numbers that are no scale."""
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise InputError(f"guidance.scale={self.scale} must be finite and >= 0; 1 means none")

    def table(self, remaining: Tensor, steps: int, total: int) -> Tensor:
        """The scale of each step and row.

        Args:
            remaining: ``(S, B)`` int64, tokens masked after each of the plan's last S steps.
            steps: T of the whole plan.
            total: L.

        Returns:
            ``(S, B)`` float64.
        """
        if self.ramp == "revealed":
            return 1 + (self.scale - 1) * (total - remaining.double()) / total
        skipped = steps - len(remaining)
        rows = [self._at(t / steps) for t in range(skipped, steps)]
        return torch.tensor(rows, dtype=torch.float64)[:, None].expand(remaining.shape)

    def _at(self, elapsed: float) -> float:
        if self.ramp == "constant":
            return self.scale
        if self.ramp == "steps":
            return 1 + (self.scale - 1) * elapsed
        return 1 + (self.scale - 1) * 0.5 * (1 - math.cos(math.pi * elapsed**self.power))


def branches(
    model: MaskedModel, canvas: Canvas, class_labels: Tensor | None, *, guided: bool
) -> tuple[Tensor, Tensor | None]:
    """Hidden states of the strong and, if ``guided``, of the weak branch, in one doubled batch.

    Args:
        model: has a null class if ``guided``.
        canvas: B images.
        class_labels: ``(B,)`` int64, or None for an unconditional model.
        guided: whether the weak branch is needed at all.

    Returns:
        ``(B, L, D)`` strong, and ``(B, L, D)`` weak or None.
    """
    if not guided:
        return model.hidden(canvas, class_labels).tokens, None
    assert class_labels is not None, "guidance needs class labels"
    assert model.null_class is not None, "guidance needs a null class"
    labels = torch.cat([class_labels, torch.full_like(class_labels, model.null_class)])  # (2B,)
    doubled = Canvas(*(torch.cat([part, part]) for part in canvas))
    strong, weak = model.hidden(doubled, labels).tokens.chunk(2)
    return strong, weak
