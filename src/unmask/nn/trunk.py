"""The stack of blocks between an embed and a head."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class Trunk(nn.Module):
    """Blocks one after another, each ``(B, S, D)`` to ``(B, S, D)``."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, S, D)`` to ``(B, S, D)``."""
        for block in self.blocks:
            x = block(x)
        return x
