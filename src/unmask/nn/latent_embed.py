"""From partly known latents and a class to a sequence of vectors (MAR, eMIGM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.types import Canvas


class LatentEmbed(nn.Module):
    """Projected latents behind a buffer of class vectors; positions, then a LayerNorm over all.

    MAR (arXiv 2406.11838; ``models/mar.py``). The class enters through the buffer alone, told
    apart by position. What a masked token is worth here does not matter: it is dropped, or
    overwritten later.

    Args:
        channels: C.
        width: D.
        length: L.
        classes: N; 0 for an unconditional model.
        buffer: P, positions that hold the class.
        norm_eps: of the LayerNorm.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        length: int,
        classes: int,
        buffer: int,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.null_class = classes
        self.project = nn.Linear(channels, width)
        self.classes = nn.Embedding(classes, width)
        self.null = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.zeros(1, buffer + length, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.buffer = buffer

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """Embed.

        Args:
            canvas: ``(B, L)`` with ``(B, L, C)`` float32 latents.
            class_labels: ``(B,)`` int64 in [0, N], N meaning none; or None for none everywhere.

        Returns:
            ``(B, P + L, D)`` and P.
        """
        x = self.project(canvas.tokens)  # (B, L, D)
        if class_labels is None:
            rows = self.null.expand(len(x), -1)
        else:
            rows = torch.cat([self.classes.weight, self.null])[class_labels]  # (B, D)
        x = torch.cat([rows.unsqueeze(1).expand(-1, self.buffer, -1).to(x.dtype), x], dim=1)
        return self.norm(x + self.positions), self.buffer
