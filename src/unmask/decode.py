"""The decode loop: one for every system of the family.

Step by step: predict every token, draw some, let the order choose which stay masked, keep the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unmask.counts import FixedCounts
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance, branches
from unmask.masking import lowest
from unmask.model import MaskedModel
from unmask.nn.categorical import CategoricalDraw
from unmask.orders import AnyOrder, Confidence, Progress
from unmask.types import Canvas, Drawn, Step


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to decode: counts, order, guidance, and how the head draws."""

    steps: int = 8
    """T, network evaluations an image (twice as many where guidance is active)."""
    counts: FixedCounts = field(default_factory=FixedCounts)
    """How many tokens stay masked after each step."""
    order: AnyOrder = field(default_factory=Confidence)
    """Which ones."""
    guidance: Guidance = field(default_factory=Guidance)
    """Away from what, and how strongly."""
    draw: CategoricalDraw = field(default_factory=CategoricalDraw)
    """How the head draws a token."""
    first_step: int = 0
    """Steps before this one are skipped: JAX MaskGIT edits from step 2 of 12."""

    def __post_init__(self) -> None:
        """Reject step numbers that leave nothing to do."""
        if not 0 <= self.first_step < self.steps:
            raise InputError(
                f"plan.steps={self.steps} and plan.first_step={self.first_step}: "
                "needs 0 <= first_step < steps"
            )


def blank_canvas(batch: int, length: int, device: torch.device | str = "cpu") -> Canvas:
    """``batch`` images of which no token is known."""
    tokens = torch.zeros(batch, length, dtype=torch.long, device=device)
    return Canvas(tokens, torch.ones(batch, length, dtype=torch.bool, device=device))


def decode(
    model: MaskedModel, class_labels: Tensor | None, plan: Plan, draws: Draws, canvas: Canvas
) -> Iterator[Step]:
    """Unmask a canvas, yielding the state after every step (MaskGIT, algorithm 1).

    A pure function of its arguments: no files, no progress bars, no state kept. Whatever the
    counts say, nothing is masked after the last step.

    Args:
        model: in evaluation mode, on the canvas's device.
        class_labels: ``(B,)`` int64 in [0, classes), or None for an unconditional model.
        plan: see :class:`Plan`.
        draws: one stream an image, on the canvas's device.
        canvas: ``(B, L)``; known tokens condition the result.

    Yields:
        ``plan.steps - plan.first_step`` steps.
    """
    path = plan.order.start(model.grid, draws)
    for now in _schedule(plan, canvas, draws):
        canvas, tokens = _advance(model, class_labels, plan, draws, canvas, path, now)
        yield Step(now.at.step, tokens, canvas.masked)


@dataclass(frozen=True)
class _Now:
    """What is known of a step before any step runs."""

    at: Progress
    keep: Tensor  # (B,) tokens that stay masked
    scale: Tensor | None  # (B,) guidance; None where every row has 1
    masked_most: int  # masked tokens of the row that has most
    revealed_most: int  # revealed tokens of the row that reveals most


def _schedule(plan: Plan, canvas: Canvas, draws: Draws) -> list[_Now]:
    """Counts and scales of every step, at the price of one host synchronisation."""
    masked = canvas.masked.cpu()
    start = masked.sum(1)  # (B,)
    counts = plan.counts.table(plan.steps, plan.first_step, masked, draws)  # (S, B)
    scales = plan.guidance.table(counts, plan.steps, masked.shape[1])  # (S, B)
    counts = torch.minimum(counts, start)  # a row that is known already stays known
    counts[-1] = 0
    before = torch.cat([start[None], counts[:-1]])  # (S, B)
    keep, strength = counts.to(draws.device), scales.float().to(draws.device)
    return [
        _Now(
            at=Progress(step, plan.steps),
            keep=keep[row],
            scale=strength[row] if bool((scales[row] != 1).any()) else None,
            masked_most=int(before[row].max()),
            revealed_most=int((before[row] - counts[row]).max()),
        )
        for row, step in enumerate(range(plan.first_step, plan.steps))
    ]


@torch.inference_mode()
def _advance(
    model: MaskedModel,
    class_labels: Tensor | None,
    plan: Plan,
    draws: Draws,
    canvas: Canvas,
    path: Tensor | None,
    now: _Now,
) -> tuple[Canvas, Tensor]:
    """One step: the canvas after it, and every token known or drawn before any is hidden again."""
    hidden = branches(model, canvas, class_labels, guided=now.scale is not None)
    if plan.order.needs_density:  # draw every masked token, then choose
        drawn, where = _draw(model, hidden, plan, draws, canvas.masked, now.masked_most, now)
        tokens = _write(canvas, canvas.masked, where, drawn.values)
        assert drawn.log_prob is not None, "a density order needs a head with a density"
        log_prob = torch.zeros_like(canvas.masked, dtype=torch.float32)
        log_prob = log_prob.scatter(1, where, drawn.log_prob)  # (B, L)
        masked = lowest(plan.order.score(path, log_prob, canvas.masked, now.at, draws), now.keep)
    else:  # choose, then draw only what is revealed
        masked = lowest(plan.order.score(path, None, canvas.masked, now.at, draws), now.keep)
        revealed = canvas.masked & ~masked
        drawn, where = _draw(model, hidden, plan, draws, revealed, now.revealed_most, now)
        tokens = _write(canvas, revealed, where, drawn.values)
    return Canvas(tokens, masked), tokens


def _draw(
    model: MaskedModel,
    hidden: tuple[Tensor, Tensor | None],
    plan: Plan,
    draws: Draws,
    wanted: Tensor,
    most: int,
    now: _Now,
) -> tuple[Drawn, Tensor]:
    """Values at the wanted positions of ``(B, L)`` and where they stand, ``(B, most)``.

    The shape is known in advance: a row that wants fewer than ``most`` reads some others too.
    """
    where = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    strong, weak = (None if branch is None else _read(branch, where) for branch in hidden)
    assert strong is not None, "the strong branch always exists"
    drawn = model.head.draw(
        strong,
        weak,
        now.scale,
        where=where,
        length=wanted.shape[1],
        step=now.at.step,
        options=plan.draw,
        draws=draws,
    )
    return drawn, where


def _read(hidden: Tensor, where: Tensor) -> Tensor:
    """``(B, L, D)`` at ``(B, N)`` positions: ``(B, N, D)``."""
    return hidden.gather(1, where.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def _write(canvas: Canvas, wanted: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """``(B, L)`` tokens of the canvas with the drawn values where they are wanted."""
    return torch.where(wanted, canvas.tokens.scatter(1, where, values), canvas.tokens)
