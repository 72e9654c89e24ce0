"""MAGE's sequence: codes behind one class slot that is always the same."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.nn.embed import JointEmbed
from unmask.types import Canvas

NORM_EPS = 1e-6  # MAGE's, but for the norm inside its head
CLASS_ROWS = 1000  # legacy of the JAX code, as is which of them is the slot
SLOT = 76


class MageEmbed(JointEmbed):
    """Codes, class rows and the mask in one table; the token at position 0 never changes.

    MAGE (arXiv 2211.09117; ``models_mage.py``): V codes, 1000 class rows of which only number 76
    is ever used, then the mask. Its published position table has 257 rows whatever the grid.

    Args:
        codes: V.
        width: D.
        length: L, the longest canvas; the position table has L + 1 rows.
        dropout: of the normalised sum, in [0, 1).
    """

    def __init__(self, codes: int, width: int, *, length: int, dropout: float) -> None:
        super().__init__(codes, width, length=length, classes=CLASS_ROWS, dropout=dropout)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, canvas: Canvas, class_labels: Tensor | None = None) -> tuple[Tensor, int]:
        """Embed; nothing is dropped here.

        Args:
            canvas: ``(B, L)``; a shorter L than the table's uses the first positions.
            class_labels: None; there are no classes.

        Returns:
            ``(B, 1 + L, D)`` and 1.
        """
        assert class_labels is None, "MAGE has no classes"
        slot = torch.full_like(canvas.tokens[:, 0], SLOT)  # (B,)
        return super().forward(canvas, slot)
