"""The features that guidance compares: a strong branch, and weak ones, which may be reused."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.guidance import Use, Weak
from unmask.model import MaskedModel
from unmask.nn.positions import take
from unmask.types import Canvas, Hidden


def branches(
    model: MaskedModel,
    canvas: Canvas,
    class_labels: Tensor | None,
    weak: Sequence[Weak],
    read: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Hidden states of the strong branch and of the weak ones, at the positions that are read.

    Strong and null share one doubled batch. The self branch follows, since it starts from the
    strong branch's last hidden state.

    Args:
        model: has what the weak branches need: a null class, a feedback adapter.
        canvas: B images.
        class_labels: ``(B,)`` int64, or None for an unconditional model.
        weak: the branches wanted, "null" before "self".
        read: ``(B, N)`` int64.

    Returns:
        ``(B, N, D)`` strong, and as many for each weak branch.
    """
    labels, batch = class_labels, len(canvas.masked)
    doubled = canvas
    if "null" in weak:
        assert labels is not None, "guidance by class needs class labels"
        assert model.null_class is not None, "guidance by class needs a null class"
        labels = torch.cat([labels, torch.full_like(labels, model.null_class)])  # (2B,)
        kept = None if canvas.kept is None else torch.cat([canvas.kept] * 2)
        doubled = Canvas(torch.cat([canvas.tokens] * 2), torch.cat([canvas.masked] * 2), kept)
    if "self" not in weak:
        where = read if doubled is canvas else torch.cat([read, read])
        strong, *null = model.hidden(doubled, labels, where).tokens.split(batch)
        return strong, tuple(null)
    assert model.feedback is not None, "self-guidance needs a feedback adapter"
    every = model.hidden(doubled, labels)
    strong, *null = every.tokens.split(batch)
    seen = Hidden(every.prefix[:batch], strong)
    blurred = model.feedback(model, seen, canvas, class_labels)  # (B, L, D)
    return take(strong, read), tuple(take(part, read) for part in (*null, blurred))


class Branches:
    """:func:`branches` step after step, with weak ones that may stay as far from the strong one.

    Args:
        model: see :func:`branches`.
        class_labels: ``(B,)`` int64, or None.
    """

    def __init__(self, model: MaskedModel, class_labels: Tensor | None) -> None:
        self.model, self.class_labels = model, class_labels
        self.differences: list[Tensor] = []  # (B, L, D) each

    def __call__(
        self, canvas: Canvas, weak: Sequence[Weak], read: Tensor, use: Use
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As :func:`branches`; "reuse" follows a "keep" of the same weak branches."""
        if use == "once":
            return branches(self.model, canvas, self.class_labels, weak, read)
        if use == "reuse":
            strong, _ = branches(self.model, canvas, self.class_labels, (), read)
            return strong, tuple(strong + take(part, read) for part in self.differences)
        every = torch.arange(canvas.masked.shape[1], device=read.device).expand(len(read), -1)
        strong, others = branches(self.model, canvas, self.class_labels, weak, every)
        self.differences = [other - strong for other in others]
        return take(strong, read), tuple(take(other, read) for other in others)
