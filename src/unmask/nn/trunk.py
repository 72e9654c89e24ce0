"""The stack of blocks between an embed and a head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from unmask.types import Canvas


class Blocks(nn.ModuleList):
    """Blocks one after another; the last one works only where its result is read."""

    def forward(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        """``(B, S, D)`` to the same, or to ``(B, N, D)`` at the ``(B, N)`` positions ``read``."""
        for block in self[:-1]:
            x = block(x)
        return self[-1](x, read)


class Trunk(nn.Module):
    """Every block sees every position."""

    drops: ClassVar[bool] = False

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = Blocks(blocks)

    def forward(self, x: Tensor, canvas: Canvas, read: Tensor | None = None) -> Tensor:
        """See :class:`Blocks`; the canvas is not looked at."""
        return self.blocks(x, read)
