"""From a partly known image and its class to a sequence of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.nn.block import POST_NORM_EPS
from unmask.types import Canvas


class IdEmbed(nn.Module):
    """Tokens with positions, the class in front with neither position nor dropout.

    maskgit-pytorch, ``models/stage2/transformer.py``. The mask is the token table's last row, the
    null class the class table's; without labels there is no class row at all.

    Args:
        codes: V.
        width: D.
        length: L, the longest canvas.
        classes: N; 0 for an unconditional model.
        dropout: of the image tokens, in [0, 1).
    """

    def __init__(
        self, codes: int, width: int, *, length: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.mask_id = codes
        self.null_class = classes if classes else None
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.tokens = nn.Embedding(codes + 1, width)
        if classes:
            self.classes = nn.Embedding(classes + 1, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """Embed.

        Args:
            canvas: ``(B, L)``; a shorter L than the model's uses the first positions.
            class_labels: ``(B,)`` int64 in [0, N], N meaning none; or None for no class row.

        Returns:
            ``(B, P + L, D)`` and P, 1 with labels and else 0.
        """
        ids = canvas.tokens.masked_fill(canvas.masked, self.mask_id)  # (B, L)
        x = self.dropout(self.tokens(ids) + self.positions[:, : ids.shape[1]])  # (B, L, D)
        if class_labels is None:
            return x, 0
        return torch.cat([self.classes(class_labels)[:, None], x], dim=1), 1


class JointEmbed(nn.Module):
    """Codes, classes and the mask in one table; the class is the token at position 0.

    MaskGIT (arXiv 2202.04200; ``maskgit/nets/maskgit_transformer.py``): V codes, then N classes,
    then the mask. There is no null class.

    Args:
        codes: V.
        width: D.
        length: L, the longest canvas.
        classes: N, at least 1.
        dropout: of the normalised sum, in [0, 1).
    """

    null_class = None

    def __init__(
        self, codes: int, width: int, *, length: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.codes = codes
        self.mask_id = codes + classes
        self.tokens = nn.Embedding(codes + classes + 1, width)
        self.positions = nn.Embedding(length + 1, width)
        self.norm = nn.LayerNorm(width, eps=POST_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """Embed.

        Args:
            canvas: ``(B, L)``; a shorter L than the model's uses the first positions.
            class_labels: ``(B,)`` int64 in [0, N).

        Returns:
            ``(B, 1 + L, D)`` and 1.
        """
        assert class_labels is not None, "a class-conditional model needs class labels"
        ids = canvas.tokens.masked_fill(canvas.masked, self.mask_id)  # (B, L)
        ids = torch.cat([class_labels[:, None] + self.codes, ids], dim=1)  # (B, 1 + L)
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # (B, 1 + L, D)
        return self.dropout(self.norm(x)), 1


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
