"""The feedback adapter of self-guidance: a second pass of a network, steered by its first.

Self-guidance (arXiv 2410.13136; UnlockMGM, ``muse/modeling_transformer_toast.py``) takes the form
of TOAST (arXiv 2305.15542). The last hidden state of an ordinary pass is gated by its likeness to
the class, and goes down from the last block to the first through a matrix each; what it is at a
block is added to the values there in a second pass of the same, frozen network. Trained to repair
replaced tokens, the second pass predicts what is likely and leaves out what is particular:
guidance away from it sharpens.

Published for the post-norm network. That the pre-norm one works the same way is our extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.machine.devices import full_precision
from unmask.nn.block import Block
from unmask.nn.encoder_decoder import Trunk
from unmask.ranges import Between, Ranged
from unmask.types import Canvas, Hidden

if TYPE_CHECKING:
    from unmask.nn.model import MaskedModel


@dataclass(frozen=True, kw_only=True)
class Feedback(Ranged, path="network.feedback"):
    """The adapter of self-guidance, beyond the sizes that its network gives it."""

    factor: Annotated[int, Between(1, 2**12)] = 16
    """Learned vectors mixed into the one that stands for a class; UnlockMGM's ``tg_factor``."""
    blank: bool = True
    """Hide canvas and class from the second pass, as both published models do."""


class ClassAnchor(nn.Module):
    """The vector that a hidden state of a class resembles.

    A label that means "no class", and a model without classes, have the shared part alone.

    Args:
        width: D.
        classes: N; 0 for an unconditional model.
        factor: F.
    """

    def __init__(self, width: int, classes: int, factor: int) -> None:
        super().__init__()
        self.shared = nn.Embedding(1, width * factor)
        self.classes = nn.Embedding(classes, width * factor) if classes else None
        self.mix = nn.Embedding(1, factor)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, class_labels: Tensor | None) -> Tensor:
        """``(B,)`` int64 labels, N meaning none, to ``(B, 1, D)``; None to ``(1, 1, D)``."""
        table = self.shared.weight  # (1, D F)
        if class_labels is not None and self.classes is not None:
            last = self.classes.num_embeddings - 1
            own = self.classes(class_labels.clamp(max=last))  # (B, D F)
            table = table + own * (class_labels <= last).unsqueeze(1)
        mix = self.mix.weight[0]  # (F,)
        anchor = table.unflatten(-1, (-1, len(mix))) @ mix  # (B or 1, D)
        return self.out(self.norm(anchor)).unsqueeze(1)  # (B or 1, 1, D)


class FeedbackLayer(nn.Module):
    """One block's part of the way down.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, width, bias=False)  # goes on to the block below
        self.out = nn.Linear(width, width, bias=False)  # what this block gets

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., D)`` from above to what goes on and what stays, the same shape each."""
        x = self.down(x)
        return x, self.out(x)


class FeedbackAdapter(nn.Module):
    """The way from the first pass to the second; see the head of this file.

    Training takes the way down as it is published (:meth:`states`), sampling folds it first
    (:class:`FoldedAdapter`).

    Args:
        options: see :class:`Feedback`.
        width: D.
        depth: blocks of the network.
        classes: N; 0 for an unconditional model.
    """

    def __init__(self, options: Feedback, width: int, *, depth: int, classes: int) -> None:
        super().__init__()
        self.blank = options.blank
        self.top = nn.Parameter(torch.zeros(width, width).fill_diagonal_(1))
        self.anchor = ClassAnchor(width, classes, options.factor)
        self.levels = nn.ModuleList(FeedbackLayer(width) for _ in range(depth))

    def gate(self, hidden: Hidden, class_labels: Tensor | None) -> Tensor:
        """``(B, P + L, 1)`` in [0, 1]: cosine of state and anchor, not below 0."""
        anchor = F.normalize(self.anchor(class_labels), dim=-1)  # (B, 1, D)
        states = F.normalize(torch.cat(hidden, 1), dim=-1)  # (B, P + L, D)
        return (states * anchor).sum(-1, keepdim=True).clamp(0, 1)  # (B, P + L, 1)

    def gated(self, hidden: Hidden, class_labels: Tensor | None) -> Tensor:
        """``(B, P + L, D)``, the last hidden state as far as it resembles the class."""
        return torch.cat(hidden, 1) * self.gate(hidden, class_labels)

    def top_down(self, gated: Tensor) -> list[Tensor]:
        """The gated state, ``(B, S, D)``, as it arrives at each block, the first block first."""
        x, features = gated @ self.top, []  # (B, S, D)
        for level in reversed(self.levels):
            x, feature = level(x)  # (B, S, D) each
            features.append(feature)
        return features[::-1]

    def states(
        self, model: MaskedModel, hidden: Hidden, canvas: Canvas, class_labels: Tensor | None
    ) -> list[Tensor]:
        """The second pass as published: the input of every block and the output of the last.

        Args:
            model: the network that this adapter belongs to.
            hidden: of its first pass, ``(B, P, D)`` and ``(B, L, D)``.
            canvas: ``(B, L)``, of the first pass too.
            class_labels: ``(B,)`` int64 or None, of the first pass too.

        Returns:
            depth + 1 tensors ``(B, P + L, D)``.
        """
        gated = self.gated(hidden, class_labels)  # (B, P + L, D)
        states = [self.embed(model, canvas, class_labels)]
        for block, feature in zip(_blocks(model), self.top_down(gated), strict=True):
            extra = F.linear(feature, *block.attention.value_projection)  # (B, P + L, D)
            states.append(block(states[-1], extra=extra))  # (B, P + L, D)
        return states

    def inversion_error(self, states: Sequence[Tensor]) -> Tensor:
        """How far the way down is from inverting the blocks: mean squared errors, summed.

        TOAST's variational loss. It teaches the ``down`` matrices alone.

        Args:
            states: what :meth:`states` gave.
        """
        errors = [
            F.mse_loss(cast(FeedbackLayer, level).down(after.detach()), before.detach())
            for level, before, after in zip(self.levels, states[:-1], states[1:], strict=True)
        ]
        return torch.stack(errors).sum()

    def embed(self, model: MaskedModel, canvas: Canvas, class_labels: Tensor | None) -> Tensor:
        """The second input, ``(B, P + L, D)``; blank, label N names a row that is no class."""
        if self.blank:
            canvas = Canvas(canvas.tokens, torch.ones_like(canvas.masked))
            if class_labels is not None:  # the null class, or the mask in a joint table
                class_labels = torch.full_like(class_labels, model.classes)
        return model.embed(canvas, class_labels)[0]


class FoldedAdapter:
    """The second pass of an adapter, with what depends on no image made once, for one decoding.

    The way down is linear, so it is one matrix a block; and if the second input is blank, the first
    block's attention map is a constant. Weights that change later are not seen.

    Args:
        model: with an adapter, in evaluation mode.
        canvas: ``(B, L)``, any of the decoding.
        class_labels: ``(B,)`` int64 or None, of the decoding.
    """

    def __init__(self, model: MaskedModel, canvas: Canvas, class_labels: Tensor | None) -> None:
        assert isinstance(model.feedback, FeedbackAdapter), "self-guidance needs an adapter"
        adapter = self.adapter = model.feedback
        self.model, self.blocks, top = model, _blocks(model), adapter.top
        self.first: tuple[Tensor, Tensor, Tensor] | None = None
        if adapter.blank:
            one = Canvas(canvas.tokens[:1], canvas.masked[:1])  # (1, L)
            label = None if class_labels is None else class_labels[:1]
            self.first = _constants(self.blocks[0], adapter.embed(model, one, label))
        with full_precision(top.device.type):
            identity = torch.eye(len(top), dtype=top.dtype, device=top.device)  # (D, D)
            self.matrices = [  # (D, D) each, from the gated state to what a block's values get
                F.linear(feature, block.attention.value_projection[0].to(feature)).T
                for feature, block in zip(adapter.top_down(identity), self.blocks, strict=True)
            ]

    def __call__(self, hidden: Hidden, canvas: Canvas, class_labels: Tensor | None) -> Tensor:
        """``(B, L, D)``, for the head; arguments as of :meth:`FeedbackAdapter.states`."""
        gated = self.adapter.gated(hidden, class_labels)  # (B, S, D)
        extras = (
            F.linear(gated, matrix, block.attention.value_projection[1])  # (B, S, D)
            for block, matrix in zip(self.blocks, self.matrices, strict=True)
        )
        if self.first is None:
            x, rest = self.adapter.embed(self.model, canvas, class_labels), self.blocks
        else:
            first, *rest = self.blocks
            x = _from_constants(first, *self.first, next(extras))
        for block, extra in zip(rest, extras, strict=True):
            x = block(x, extra=extra)  # (B, S, D)
        return x[:, hidden.prefix.shape[1] :]  # (B, L, D)


def _blocks(model: MaskedModel) -> list[Block]:
    assert isinstance(model.trunk, Trunk), "the adapter steers a plain trunk"
    return list(model.trunk.blocks)  # type: ignore[arg-type]


def _constants(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's input, ``(1, S, D)``, its attention map and its values before any are added."""
    attention = block.attention
    parts = attention.qkv(block.attended(x)).chunk(3, dim=-1)
    q, k, v = map(attention.split, parts)  # (1, H, S, D / H) each
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (1, H, S, S)
    return x, scores.softmax(-1)[0], v  # (1, S, D), (H, S, S), (1, H, S, D / H)


def _from_constants(
    block: Block, x: Tensor, weights: Tensor, values: Tensor, extra: Tensor
) -> Tensor:
    """A block's output, ``(B, S, D)``, for what is added to its values, ``(B, S, D)``."""
    changed = values + block.attention.split(extra)  # (B, H, S, D / H)
    mixed = torch.einsum("hst,bhtd->bhsd", weights, changed)  # (B, H, S, D / H)
    return block.complete(x, block.attention.merge(mixed))
