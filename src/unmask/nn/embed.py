"""From a partly known image and its class to a sequence of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.nn.block import BERT_EPS, VIT_EPS
from unmask.nn.weights import Vectors
from unmask.types import Canvas

CLASS_ROWS = 1000  # of MAGE's table, a legacy of the JAX code, as is which of them is the slot
SLOT = 76


class Embed(Vectors):
    """A canvas of L tokens and the class as P + L vectors: P in front that hold the class."""

    null_class: int | None = None
    """The label that means "no class"; None where no label does."""
    channels: int | None = None
    """C, numbers a token; None where tokens are ids."""

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """Embed.

        Args:
            canvas: ``(B, L)``; of ids, a shorter L than the model's uses the first positions.
            class_labels: ``(B,)`` int64 in [0, N), or the null class; None for no labels.

        Returns:
            ``(B, P + L, D)`` and P.
        """
        raise NotImplementedError


class IdEmbed(Embed):
    """Tokens with positions, the class in front with neither position nor dropout.

    maskgit-pytorch, ``models/stage2/transformer.py``. The mask is the token table's last row, the
    null class the class table's; without labels there is no class row at all (P = 0).

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
        self.null_class = classes or None
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.tokens = nn.Embedding(codes + 1, width)
        if classes:
            self.classes = nn.Embedding(classes + 1, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """See :class:`Embed`; P is 1 with labels and else 0."""
        ids = canvas.tokens.masked_fill(canvas.masked, self.mask_id)  # (B, L)
        x = self.dropout(self.tokens(ids) + self.positions[:, : ids.shape[1]])  # (B, L, D)
        if class_labels is None:
            return x, 0
        front = self.classes(class_labels)[:, None]  # (B, 1, D)
        return torch.cat([front, x], dim=1), 1  # (B, 1 + L, D)


class JointEmbed(Embed):
    """Codes, classes and the mask in one table; the class is the token at position 0.

    MaskGIT (arXiv 2202.04200; ``maskgit/nets/maskgit_transformer.py``): V codes, then N classes,
    then the mask. There is no null class.

    Args:
        codes: V.
        width: D.
        length: L, the longest canvas.
        classes: N, at least 1.
        dropout: of the normalised sum, in [0, 1).
        eps: of the LayerNorm.
    """

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        length: int,
        classes: int,
        dropout: float,
        eps: float = BERT_EPS,
    ) -> None:
        super().__init__()
        self.codes = codes
        self.mask_id = codes + classes
        self.tokens = nn.Embedding(codes + classes + 1, width)
        self.positions = nn.Embedding(length + 1, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """See :class:`Embed`; labels must be given, and P is 1."""
        assert class_labels is not None, "a class-conditional model needs class labels"
        ids = canvas.tokens.masked_fill(canvas.masked, self.mask_id)  # (B, L)
        ids = torch.cat([class_labels[:, None] + self.codes, ids], dim=1)  # (B, 1 + L)
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]  # (B, 1 + L, D)
        return self.dropout(self.norm(x)), 1


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
        super().__init__(
            codes, width, length=length, classes=CLASS_ROWS, dropout=dropout, eps=VIT_EPS
        )

    def forward(self, canvas: Canvas, class_labels: Tensor | None = None) -> tuple[Tensor, int]:
        """See :class:`Embed`; there are no labels, nothing is dropped here, and P is 1."""
        assert class_labels is None, "MAGE has no classes"
        slot = torch.full_like(canvas.tokens[:, 0], SLOT)  # (B,)
        return super().forward(canvas, slot)  # (B, 1 + L, D)


class LatentEmbed(Embed):
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
    """

    null_class: int

    def __init__(
        self, channels: int, width: int, *, length: int, classes: int, buffer: int
    ) -> None:
        super().__init__()
        self.channels, self.null_class, self.buffer = channels, classes, buffer
        self.project = nn.Linear(channels, width)
        self.classes = nn.Embedding(classes, width)
        self.null = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.zeros(1, buffer + length, width))
        self.norm = nn.LayerNorm(width, eps=VIT_EPS)

    def forward(self, canvas: Canvas, class_labels: Tensor | None) -> tuple[Tensor, int]:
        """See :class:`Embed`; L is the model's, and no labels are the null class everywhere."""
        x = self.project(canvas.tokens.to(self.project.weight.dtype))  # (B, L, D)
        if class_labels is None:
            rows = self.null.expand(len(x), -1)  # (B, D)
        else:
            rows = torch.cat([self.classes.weight, self.null])[class_labels]  # (B, D)
        front = rows.unsqueeze(1).expand(-1, self.buffer, -1)  # (B, P, D)
        x = torch.cat([front.to(x.dtype), x], dim=1)  # (B, P + L, D)
        return self.norm(x + self.positions), self.buffer
