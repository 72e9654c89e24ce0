"""Transformer blocks: normalised before each branch (ViT), or after each sum (BERT)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unmask.nn.positions import take

VIT_EPS, BERT_EPS = 1e-6, 1e-12  # of the LayerNorms of ViT (MAE, MAGE, MAR) and of BERT (MaskGIT)
Gelu = Literal["erf", "tanh"]


def gelu_module(gelu: Gelu) -> nn.GELU:
    """The exact activation ("erf") or JAX's default approximation ("tanh")."""
    return nn.GELU(approximate="tanh" if gelu == "tanh" else "none")


class Recomputable(nn.Module):
    """A block that may forget its activations; results, dropout and gradients are the same."""

    recompute = False

    def __call__(self, *args: Any, **named: Any) -> Any:
        """The module's forward."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **named)
        return super().__call__(*args, **named)


def recompute_blocks(model: nn.Module) -> None:
    """Let every block of a model forget its activations."""
    for module in model.modules():
        if isinstance(module, Recomputable):
            module.recompute = True


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
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # (B, H, N or S, D / H)
        return self.merge(mixed)  # (B, N or S, D)

    def merge(self, mixed: Tensor) -> Tensor:
        """Mixed values, ``(B, H, N, D / H)``, through the output projection, ``(B, N, D)``."""
        x = mixed.transpose(1, 2).flatten(2)  # (B, N, D)
        return self.output_dropout(self.out(x))

    @property
    def value_projection(self) -> tuple[Tensor, Tensor | None]:
        """The ``(D, D)`` matrix that makes values, and its ``(D,)`` bias if it has one."""
        rows = slice(2 * self.out.in_features, None)
        bias = self.qkv.bias
        return self.qkv.weight[rows], None if bias is None else bias[rows]

    def _project(self, x: Tensor, read: Tensor | None) -> tuple[Tensor, ...]:
        """Query, key and value; the query only at the positions read."""
        if read is None:
            return self.qkv(x).chunk(3, dim=-1)  # (B, S, D) each
        width, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
        parts = (width, 2 * width)
        of_q, of_kv = weight.split(parts)
        bias_q, bias_kv = (None, None) if bias is None else bias.split(parts)
        q = F.linear(take(x, read), of_q, bias_q)  # (B, N, D)
        return q, *F.linear(x, of_kv, bias_kv).chunk(2, dim=-1)  # (B, S, D) each


class FeedForward(nn.Module):
    """Two linear layers around a GELU.

    Args:
        width: D.
        hidden: width between the two layers.
        gelu: see :func:`gelu_module`.
        inner_dropout: after the activation (MAGE, MAR), in [0, 1).
        dropout: of the result, in [0, 1).
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        gelu: Gelu = "erf",
        inner_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.gelu = gelu_module(gelu)
        self.inner_dropout = nn.Dropout(inner_dropout)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``."""
        x = self.inner_dropout(self.gelu(self.expand(x)))  # (..., hidden)
        return self.dropout(self.contract(x))  # (..., D)


class DropPath(nn.Dropout):
    """Leaves a branch out for whole images (stochastic depth, arXiv 1603.09382)."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, S, D)`` to the same: a row times 0, or 1 / (1 - p) to keep the mean."""
        if not self.training or not self.p:
            return x
        return x * super().forward(x.new_ones(len(x), 1, 1))  # (B, S, D)


class Block(Recomputable):
    """Attention and feed-forward layers with residual sums; a subclass says where it normalises."""

    attention: Attention

    def forward(self, x: Tensor, read: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """``(B, S, D)`` to the same, or to ``(B, N, D)`` at the positions that are read.

        Args:
            x: ``(B, S, D)``.
            read: ``(B, N)`` int64; None means all.
            extra: ``(B, S, D)``, added to the attention's values (self-guidance).
        """
        mixed = self.attention(self.attended(x), read, extra)  # (B, N or S, D)
        return self.complete(x if read is None else take(x, read), mixed)

    def attended(self, x: Tensor) -> Tensor:
        """``(B, S, D)``, what attention sees of the input."""
        raise NotImplementedError

    def complete(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """The rest of the block, from its input and the attention's result, ``(B, N, D)`` each."""
        raise NotImplementedError


class PreNormBlock(Block):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))`` (ViT; maskgit-pytorch).

    Args:
        width: D.
        heads: H.
        feed_forward: width of the hidden layer, 4 D in every published model.
        qkv_bias: absent in maskgit-pytorch, present in MAGE and MAR.
        norm_eps: 1e-5 in maskgit-pytorch, 1e-6 in MAGE and MAR.
        dropout: of attention probabilities, both branches' results, in [0, 1).
        inner_dropout: after the activation, in [0, 1).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        feed_forward: int,
        qkv_bias: bool = False,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        inner_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(
            width, heads, qkv_bias=qkv_bias, dropout=dropout, output_dropout=dropout
        )
        self.feed_forward_norm = nn.LayerNorm(width, eps=norm_eps)
        self.feed_forward = FeedForward(
            width, feed_forward, inner_dropout=inner_dropout, dropout=dropout
        )
        self.drop_path = DropPath(0.0)  # fine-tuning sets its rate

    def attended(self, x: Tensor) -> Tensor:
        """``(B, S, D)``, normalised."""
        return self.attention_norm(x)

    def complete(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """``(B, N, D)``: both sums, the second with its branch normalised."""
        x = residual + self.drop_path(mixed)
        return x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))


class PostNormBlock(Block):
    """``norm(x + attention(x))``, then ``norm(x + feed_forward(x))`` (BERT; MaskGIT).

    Args:
        width: D.
        heads: H.
        feed_forward: width of the hidden layer.
        gelu: see :func:`gelu_module`.
        dropout: of the feed-forward result, in [0, 1).
        attention_dropout: of attention probabilities, in [0, 1).
        attention_output_dropout: of the attention's result, in [0, 1); JAX MaskGIT has it, its
            PyTorch port (UnlockMGM) does not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        feed_forward: int,
        gelu: Gelu = "erf",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention_output_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = Attention(
            width,
            heads,
            qkv_bias=True,
            dropout=attention_dropout,
            output_dropout=attention_output_dropout,
        )
        self.attention_norm = nn.LayerNorm(width, eps=BERT_EPS)
        self.feed_forward = FeedForward(width, feed_forward, gelu=gelu, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width, eps=BERT_EPS)

    def attended(self, x: Tensor) -> Tensor:
        """``(B, S, D)``, as it is."""
        return x

    def complete(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """``(B, N, D)``: both sums, normalised."""
        x = self.attention_norm(residual + mixed)
        return self.feed_forward_norm(x + self.feed_forward(x))
