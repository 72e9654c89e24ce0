"""What heads share: options that say how to draw, and guidance's one formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.ranges import Ranged


@dataclass(frozen=True)
class HeadDraw(Ranged, ABC, path="draw"):
    """How a head draws a token."""

    @property
    @abstractmethod
    def of_codes(self) -> bool:
        """Whether it is for heads that give a probability to every code; else for diffusion."""


def guided(strong: Tensor, weak: Sequence[Tensor], scales: Sequence[Tensor]) -> Tensor:
    """``weak + s (strong - weak)``; a second weak branch adds ``(s - 1) (strong - weak)``.

    Args:
        strong: ``(B, ...)``.
        weak: the same shape each; none returns ``strong``.
        scales: ``(B,)`` each, one a weak branch; 1 means none.
    """
    if not weak:
        return strong
    shape = (-1, *[1] * (strong.ndim - 1))
    first, *others = (scale.view(shape) for scale in scales)
    result = torch.lerp(weak[0], strong, first)
    for scale, branch in zip(others, weak[1:], strict=True):
        result = result + (scale - 1) * (strong - branch)
    return result
