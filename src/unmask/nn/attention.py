"""Self-attention over the whole sequence, every token to every token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from unmask.nn.positions import take


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

    def forward(self, x: Tensor, read: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """Mix values.

        Args:
            x: ``(B, S, D)``.
            read: ``(B, N)`` int64, the positions whose results are wanted; None means all.
            extra: ``(B, S, D)``, added to the values (self-guidance).

        Returns:
            ``(B, N, D)`` or ``(B, S, D)``.
        """
        q, k, v = self._project(x, read)  # (B, N or S, D) each
        v = v if extra is None else v + extra
        q, k, v = map(self.split, (q, k, v))  # (B, H, N or S, D / H) each
        dropout = self.dropout if self.training else 0.0
        return self.merge(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout))

    def merge(self, mixed: Tensor) -> Tensor:
        """Mixed values, ``(B, H, N, D / H)``, through the output projection, ``(B, N, D)``."""
        return self.output_dropout(self.out(mixed.transpose(1, 2).flatten(2)))

    @property
    def value_projection(self) -> tuple[Tensor, Tensor | None]:
        """The ``(D, D)`` matrix that makes values, and its ``(D,)`` bias if it has one."""
        rows = slice(2 * self.out.in_features, None)
        bias = self.qkv.bias
        return self.qkv.weight[rows], None if bias is None else bias[rows]

    def _project(self, x: Tensor, read: Tensor | None) -> tuple[Tensor, ...]:
        """Query, key and value, the query only where it is read."""
        if read is None:
            return self.qkv(x).chunk(3, dim=-1)
        width, bias = x.shape[-1], self.qkv.bias
        first, rest = slice(width), slice(width, None)
        q = F.linear(take(x, read), self.qkv.weight[first], None if bias is None else bias[first])
        kv = F.linear(x, self.qkv.weight[rest], None if bias is None else bias[rest])
        return q, *kv.chunk(2, dim=-1)
