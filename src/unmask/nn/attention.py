"""Self-attention over the whole sequence, every token to every token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with one fused matrix for query, key and value.

    Args:
        width: D, divisible by ``heads``.
        heads: H; a head is a contiguous slice of D.
        qkv_bias: whether query, key and value have biases; the output always has one.
        dropout: of attention probabilities, in [0, 1).
        output_dropout: of the output projection, in [0, 1).
    """

    def __init__(
        self, width: int, heads: int, *, qkv_bias: bool, dropout: float, output_dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)
        self.output_dropout = nn.Dropout(output_dropout)

    def split(self, x: Tensor) -> Tensor:
        """``(B, S, D)`` as heads, ``(B, H, S, D / H)``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, S, D)`` to ``(B, S, D)``."""
        q, k, v = map(self.split, self.qkv(x).chunk(3, dim=-1))  # (B, H, S, D / H) each
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.output_dropout(self.out(mixed.transpose(1, 2).flatten(2)))
