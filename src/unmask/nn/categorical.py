"""Heads that give a probability to every code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.draws import TINY, Draws
from unmask.nn.block import BERT_EPS, Gelu, gelu_module
from unmask.nn.guided import HeadDraw, guided
from unmask.ranges import Between
from unmask.types import Drawn, Reading


@dataclass(frozen=True, kw_only=True)
class CategoricalDraw(HeadDraw):
    """How a code is drawn from the logits."""

    of_codes: ClassVar[bool] = True

    temperature: Annotated[float, Between(1e-6, 1e6)] = 1.0
    """Temperature that divides the logits; below 1 sharpens the distribution of codes."""
    top_k: Annotated[int | None, Between(1, 2**24)] = None
    """Only the k likeliest codes, and ties with the k-th, can be drawn; None means all."""


class CategoricalHead(nn.Module):
    """What all categorical heads share; a subclass says what precedes the output layer.

    Args:
        codes: V, the drawable outputs, which come first.
        width: D.
        outputs: all outputs, at least V.
    """

    def __init__(self, codes: int, width: int, *, outputs: int) -> None:
        super().__init__()
        self.codes = codes
        self.out = nn.Linear(width, outputs)

    def transform(self, features: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``, what the output layer reads."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., outputs)``, in the arithmetic's own precision."""
        return F.linear(self.transform(features), self.matrix, self.out.bias)

    @property
    def matrix(self) -> Tensor:
        """``(outputs, D)`` of the output layer."""
        return self.out.weight

    def code_logits(self, features: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., V)`` float32, the drawable outputs alone."""
        weight, bias = self.matrix[: self.codes], self.out.bias[: self.codes]
        return F.linear(self.transform(features), weight, bias).float()

    def loss(self, features: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross entropy over all outputs, as every source takes it.

        Args:
            features: ``(M, D)``.
            targets: ``(M,)`` int64 codes.
            label_smoothing: share of the target spread over all outputs, in [0, 1).

        Returns:
            ``(M,)`` float32, not reduced.
        """
        logits = self.logits(features).float()
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)

    def draw(self, reading: Reading, options: CategoricalDraw, draws: Draws) -> Drawn:
        """One code at each position read.

        Returns:
            ``(B, N)`` int64 codes in [0, V) and their ``(B, N)`` float32 log-probabilities.
        """
        logits = cut_to_top_k(self.guided_logits(reading), options.top_k)  # (B, N, V)
        probs = (logits / options.temperature).softmax(-1)
        ids = draws.categorical(probs, reading.step, reading.where, reading.length)  # (B, N)
        drawn = probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        return Drawn(ids, drawn.clamp(min=TINY).log())

    def guided_logits(self, reading: Reading) -> Tensor:
        """``(B, N, V)`` float32 logits of the codes, guided (:func:`unmask.nn.guided.guided`)."""
        branches = torch.cat([reading.strong, *reading.weak])  # (G B, N, D)
        logits = self.code_logits(branches).split(len(reading.strong))  # G of (B, N, V)
        return guided(logits[0], logits[1:], reading.scales)


def cut_to_top_k(logits: Tensor, top_k: int | None) -> Tensor:
    """``(..., V)`` with -inf below the k-th largest; ties with it stay. None changes nothing."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits
    least = logits.topk(top_k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


class LinearHead(CategoricalHead):
    """LayerNorm and a linear layer to the codes (maskgit-pytorch).

    Args:
        codes: V.
        width: D.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__(codes, width, outputs=codes)
        self.norm = nn.LayerNorm(width)

    def transform(self, features: Tensor) -> Tensor:
        """``(..., D)``, normalised."""
        return self.norm(features)


class MlmHead(CategoricalHead):
    """BERT's masked language head, with outputs for classes and the mask too (MaskGIT).

    Args:
        codes: V.
        width: D.
        outputs: V + N + 1.
        gelu: "erf" in UnlockMGM, "tanh" in JAX.
    """

    def __init__(self, codes: int, width: int, *, outputs: int, gelu: Gelu) -> None:
        super().__init__(codes, width, outputs=outputs)
        self.dense = nn.Linear(width, width)
        self.gelu = gelu_module(gelu)
        self.norm = nn.LayerNorm(width, eps=BERT_EPS)

    def transform(self, features: Tensor) -> Tensor:
        """``(..., D)``: dense, GELU, LayerNorm."""
        return self.norm(self.gelu(self.dense(features)))


class FixedTableHead(CategoricalHead):
    """An output layer that reads the token table but does not teach it (MAGE).

    The table's gradient comes from the input side alone, and the loss is over the codes alone.

    Args:
        codes: V.
        width: E of the features.
        inner: D of the token table, whose weight the builder puts in place of ``out.weight``.
        outputs: rows of the table.
    """

    def __init__(self, codes: int, width: int, *, inner: int, outputs: int) -> None:
        super().__init__(codes, inner, outputs=outputs)
        self.dense = nn.Linear(width, inner)
        self.gelu = gelu_module("erf")
        self.norm = nn.LayerNorm(inner)

    @property
    def matrix(self) -> Tensor:
        """``(outputs, D)``, without a gradient."""
        return self.out.weight.detach()

    def transform(self, features: Tensor) -> Tensor:
        """``(..., E)`` to ``(..., D)``: dense, GELU, LayerNorm."""
        return self.norm(self.gelu(self.dense(features)))

    def loss(self, features: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross entropy over the codes: ``(M, E)`` and ``(M,)`` codes to ``(M,)``."""
        logits = self.code_logits(features)
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
