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
from typing import TYPE_CHECKING, Annotated, NamedTuple, cast

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
    """Sizes of the adapter beyond those of its network."""

    factor: Annotated[int, Between(1, 2**12)] = 16
    """Numbers of which the class anchor mixes each of its D; UnlockMGM's ``tg_factor``."""
    blank: bool = True
    """Whether the second pass sees masks only, the class hidden too, as both published models;
    else it sees the canvas and class again."""


class ClassAnchor(nn.Module):
    """What a hidden state of a class resembles.

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
        return self.out(self.norm(table.unflatten(-1, (-1, len(mix))) @ mix)).unsqueeze(1)


class Level(nn.Module):
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


class _Folded(NamedTuple):
    """What does not depend on the images, while the weights stay as they are."""

    key: object
    weights: list[Tensor]  # held, so that no other tensor can take their addresses
    matrices: list[Tensor]  # (D, D) a block, from the gated state to what its values get
    first: tuple[Tensor, Tensor, Tensor] | None  # block 0: (1, S, D), (H, S, S), (1, H, S, D / H)


class FeedbackAdapter(nn.Module):
    """Features of the second pass; see the head of this file.

    The way down is linear. So with frozen weights it is one matrix a block, and if the second input
    is blank, the first block's attention map is a constant. Without gradients these are made once
    and kept for as long as the weights that they are made of are the same tensors of the same
    version, by PyTorch's own count; only writing through ``.data`` could deceive it.

    Args:
        options: see :class:`Feedback`.
        width: D.
        depth: blocks of the network.
        classes: N; 0 for an unconditional model.
    """

    def __init__(self, options: Feedback, width: int, *, depth: int, classes: int) -> None:
        super().__init__()
        self.blank = options.blank
        self.top = nn.Parameter(torch.eye(width))
        self.anchor = ClassAnchor(width, classes, options.factor)
        self.levels = nn.ModuleList(Level(width) for _ in range(depth))
        self._folded: _Folded | None = None

    def train(self, mode: bool = True) -> FeedbackAdapter:
        """Set the mode; what was folded is dropped."""
        self._folded = None
        return super().train(mode)

    def forward(
        self, model: MaskedModel, hidden: Hidden, canvas: Canvas, class_labels: Tensor | None
    ) -> Tensor:
        """The second pass.

        Args:
            model: the network that this adapter belongs to.
            hidden: of its first pass, ``(B, P, D)`` and ``(B, L, D)``.
            canvas: ``(B, L)``, of the first pass too.
            class_labels: ``(B,)`` int64 or None, of the first pass too.

        Returns:
            ``(B, L, D)``, for the head.
        """
        plain = torch.is_grad_enabled() or model.training
        weights = [] if plain else self._ingredients(model)
        if plain or any(weight.is_inference() for weight in weights):  # those have no version
            x = self.states(model, hidden, canvas, class_labels)[-1]
        else:
            x = self._steered(model, hidden, canvas, class_labels, weights)
        return x[:, hidden.prefix.shape[1] :]

    def gate(self, hidden: Hidden, class_labels: Tensor | None) -> Tensor:
        """``(B, P + L, 1)`` in [0, 1]: cosine of state and anchor, not below 0."""
        anchor = F.normalize(self.anchor(class_labels), dim=-1)  # (B, 1, D)
        states = F.normalize(torch.cat([hidden.prefix, hidden.tokens], 1), dim=-1)
        return (states * anchor).sum(-1, keepdim=True).clamp(0, 1)

    def top_down(self, gated: Tensor) -> list[Tensor]:
        """The gated state, ``(B, S, D)``, as it arrives at each block, the first block first."""
        x, features = gated @ self.top, []
        for level in reversed(self.levels):
            x, feature = level(x)
            features.append(feature)
        return features[::-1]

    def states(
        self, model: MaskedModel, hidden: Hidden, canvas: Canvas, class_labels: Tensor | None
    ) -> list[Tensor]:
        """The second pass step by step: the input of every block and the output of the last.

        Arguments as of a call.

        Returns:
            depth + 1 tensors ``(B, P + L, D)``.
        """
        gated = self._gated(hidden, class_labels)
        states = [self._embed(model, canvas, class_labels)]
        for block, feature in zip(_blocks(model), self.top_down(gated), strict=True):
            extra = F.linear(feature, *block.attention.value_projection)
            states.append(block(states[-1], extra=extra))
        return states

    def inversion_error(self, states: Sequence[Tensor]) -> Tensor:
        """How far the way down is from inverting the blocks: mean squared errors, summed.

        TOAST's variational loss. It teaches the ``down`` matrices alone.

        Args:
            states: what :meth:`states` gave.
        """
        errors = [
            F.mse_loss(cast(Level, level).down(after.detach()), before.detach())
            for level, before, after in zip(self.levels, states[:-1], states[1:], strict=True)
        ]
        return torch.stack(errors).sum()

    def _gated(self, hidden: Hidden, class_labels: Tensor | None) -> Tensor:
        gate = self.gate(hidden, class_labels)
        return torch.cat([hidden.prefix, hidden.tokens], 1) * gate  # (B, P + L, D)

    def _embed(self, model: MaskedModel, canvas: Canvas, class_labels: Tensor | None) -> Tensor:
        """The second input, ``(B, P + L, D)``; blank, label N names a row that is no class."""
        if self.blank:
            canvas = Canvas(canvas.tokens, torch.ones_like(canvas.masked))
            if class_labels is not None:  # the null class, or the mask in a joint table
                class_labels = torch.full_like(class_labels, model.classes)
        return model.embed(canvas, class_labels)[0]

    def _steered(
        self,
        model: MaskedModel,
        hidden: Hidden,
        canvas: Canvas,
        class_labels: Tensor | None,
        weights: list[Tensor],
    ) -> Tensor:
        """The last of :meth:`states`, by way of what is folded."""
        folded = self._fold(model, canvas, class_labels, weights)
        gated = self._gated(hidden, class_labels)

        def extra(block: Block, matrix: Tensor) -> Tensor:
            """What is added to the block's values, ``(B, S, D)``."""
            return F.linear(gated, matrix, block.attention.value_projection[1])

        ways = zip(_blocks(model), folded.matrices, strict=True)
        if folded.first is None:
            x = self._embed(model, canvas, class_labels)
        else:
            block, matrix = next(ways)
            x = _from_constants(block, *folded.first, extra(block, matrix))
        for block, matrix in ways:
            x = block(x, extra=extra(block, matrix))
        return x

    def _ingredients(self, model: MaskedModel) -> list[Tensor]:
        """Every weight that something folded is made of."""
        first, *others = _blocks(model)
        parts = [self, model.embed, first, *(block.attention.qkv for block in others)]
        return [weight.detach() for part in parts for weight in part.parameters()]

    def _fold(
        self,
        model: MaskedModel,
        canvas: Canvas,
        class_labels: Tensor | None,
        weights: list[Tensor],
    ) -> _Folded:
        """What is kept if it still holds, else made anew."""
        versions = [(weight.data_ptr(), weight._version) for weight in weights]
        key = (versions, self.blank, canvas.masked.shape[1], class_labels is None)
        if self._folded is None or self._folded.key != key:
            self._folded = None  # makes room first
            with full_precision(self.top.device.type):
                first = None
                if self.blank:
                    one = Canvas(canvas.tokens[:1], canvas.masked[:1])
                    label = None if class_labels is None else class_labels[:1]
                    first = _constants(_blocks(model)[0], self._embed(model, one, label))
                identity = torch.eye(len(self.top)).to(self.top)
                matrices = [
                    F.linear(feature, block.attention.value_projection[0]).T
                    for feature, block in zip(self.top_down(identity), _blocks(model), strict=True)
                ]
            self._folded = _Folded(key, weights, matrices, first)
        return self._folded


def _blocks(model: MaskedModel) -> list[Block]:
    assert isinstance(model.trunk, Trunk), "the adapter steers a plain trunk"
    return list(model.trunk.blocks)  # type: ignore[arg-type]


def _constants(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A block's input, ``(1, S, D)``, its attention map and its values before any are added."""
    attention = block.attention
    parts = attention.qkv(block.attended(x)).chunk(3, dim=-1)
    q, k, v = map(attention.split, parts)  # (1, H, S, D / H) each
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (1, H, S, S)
    return x, scores.softmax(-1)[0], v


def _from_constants(
    block: Block, x: Tensor, weights: Tensor, values: Tensor, extra: Tensor
) -> Tensor:
    """A block's output, ``(B, S, D)``, for what is added to its values, ``(B, S, D)``."""
    changed = values + block.attention.split(extra)  # (B, H, S, D / H)
    mixed = torch.einsum("hst,bhtd->bhsd", weights, changed)
    return block.complete(x, block.attention.merge(mixed))
