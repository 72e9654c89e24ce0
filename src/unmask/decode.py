"""The decode loop: one for every system of the family.

Step by step: predict every token, draw some, let the order choose which stay masked, keep the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from unmask.counts import AnyCounts, FixedCounts
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance, Use, Weak
from unmask.masking import lowest
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.model import MaskedModel
from unmask.nn.positions import FEWEST_ROWS, first_positions, put, take, widened
from unmask.orders import AnyOrder, Confidence, Progress
from unmask.ranges import Between, Ranged
from unmask.types import Canvas, Hidden, Step


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


AnyDraw = CategoricalDraw | DiffusionDraw


@dataclass(frozen=True, kw_only=True)
class Plan(Ranged, path="plan"):
    """How to decode: counts, order, guidance, and how the head draws."""

    steps: Annotated[int, Between(1, 2**20)] = 8
    """T, network evaluations an image (twice as many where guidance is active)."""
    counts: AnyCounts = field(default_factory=FixedCounts)
    """How many tokens stay masked after each step."""
    order: AnyOrder = field(default_factory=Confidence)
    """Which ones."""
    guidance: Guidance = field(default_factory=Guidance)
    """Away from what, and how strongly."""
    draw: AnyDraw = field(default_factory=CategoricalDraw)
    """How the head draws a token."""
    first_step: Annotated[int, Between(0, 2**20)] = 0
    """Steps before this one are skipped: JAX MaskGIT edits from step 2 of 12."""

    def __post_init__(self) -> None:
        """Reject step numbers that leave nothing to do."""
        super().__post_init__()
        if self.first_step >= self.steps:
            raise InputError(
                f"plan.first_step={self.first_step} must be below plan.steps={self.steps}"
            )


def check_head(plan: Plan, *, codes: bool) -> None:
    """Refuse a plan that is for another head.

    Args:
        plan: any.
        codes: whether the head gives a probability to every code; else it diffuses.

    Raises:
        InputError: naming the plan's part and the head.
    """
    if plan.order.needs_density and not codes:
        raise InputError(
            f"plan.order={type(plan.order).__name__} needs probabilities, which a diffusion head "
            "does not give; use RandomOrder or StaticOrder"
        )
    if isinstance(plan.draw, CategoricalDraw) != codes:
        fit = "head of codes; use CategoricalDraw" if codes else "diffusion head; use DiffusionDraw"
        raise InputError(f"plan.draw={type(plan.draw).__name__} is not for a {fit}")


def blank_canvas(
    batch: int, length: int, device: torch.device | str = "cpu", *, channels: int | None = None
) -> Canvas:
    """``batch`` images of which no token is known: ids, or latents of so many channels."""
    masked = torch.ones(batch, length, dtype=torch.bool, device=device)
    if channels is None:
        return Canvas(torch.zeros(batch, length, dtype=torch.long, device=device), masked)
    return Canvas(torch.zeros(batch, length, channels, device=device), masked)


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
        ``plan.steps - plan.first_step`` steps; one that has nothing to draw costs nothing.

    Raises:
        InputError: the model's encoder drops hidden tokens, and rows hide unequally many.
    """
    path, branches = plan.order.start(model.grid, draws), Branches(model, class_labels)
    unsound = torch.zeros((), dtype=torch.bool, device=canvas.masked.device)
    for now in _schedule(plan, canvas, draws, alike=model.drops):
        canvas, tokens, log_prob = _advance(branches, plan, draws, canvas, path, now)
        if log_prob is not None:
            unsound = unsound | log_prob.isnan().any()
        yield Step(now.at.step, tokens, canvas.masked, unsound)


@dataclass(frozen=True)
class _Now:
    """What is known of a step before any step runs."""

    at: Progress
    keep: Tensor  # (B,) tokens that stay masked
    scales: dict[Weak, Tensor]  # (B,) guidance, of branches where some row has other than 1
    use: Use  # of the weak branches
    masked_most: int  # masked tokens of the row that has most
    revealed_most: int  # revealed tokens of the row that reveals most


def _schedule(plan: Plan, canvas: Canvas, draws: Draws, *, alike: bool) -> list[_Now]:
    """Counts and scales of every step, at the price of one host synchronisation."""
    masked = canvas.masked.cpu()
    start = masked.sum(1)  # (B,)
    if alike and bool((start != start[0]).any()):
        raise InputError(
            f"rows hide from {int(start.min())} to {int(start.max())} tokens, and this model's "
            "encoder needs equally many in every row; decode equally large holes together"
        )
    counts = plan.counts.table(plan.steps, plan.first_step, masked, draws)  # (S, B)
    scales = plan.guidance.table(counts, plan.steps, masked.shape[1])  # (S, B) each
    counts = torch.minimum(counts, start)  # a row that is known already stays known
    counts[-1] = 0
    before = torch.cat([start[None], counts[:-1]])  # (S, B)
    keep = counts.to(draws.device)
    strength = {weak: table.float().to(draws.device) for weak, table in scales.items()}
    used = {weak: (table != 1).any(1).tolist() for weak, table in scales.items()}
    most = torch.stack([before, before - counts]).amax(2).T.tolist()  # S pairs
    works = [bool(pair[0] if plan.order.needs_density else pair[1]) for pair in most]
    guided = [work and any(rows[k] for rows in used.values()) for k, work in enumerate(works)]
    uses = plan.guidance.uses(guided, plan.first_step)
    return [
        _Now(
            at=Progress(step, plan.steps),
            keep=keep[row],
            scales={weak: strength[weak][row] for weak, rows in used.items() if rows[row]},
            use=uses[row],
            masked_most=most[row][0],
            revealed_most=most[row][1],
        )
        for row, step in enumerate(range(plan.first_step, plan.steps))
    ]


@torch.inference_mode()
def _advance(
    branches: Branches,
    plan: Plan,
    draws: Draws,
    canvas: Canvas,
    path: Tensor | None,
    now: _Now,
) -> tuple[Canvas, Tensor, Tensor | None]:
    """One step.

    Returns:
        The canvas after it; every token known or drawn before any is hidden again; and, of heads
        with a density, the log-probabilities of what was drawn.
    """
    model = branches.model
    wanted, most, masked = canvas.masked, now.masked_most, canvas.masked
    if not plan.order.needs_density:  # choose, then draw only what is revealed
        masked = lowest(plan.order.score(path, None, canvas.masked, now.at, draws), now.keep)
        wanted, most = canvas.masked & ~masked, now.revealed_most
    if not most:
        return Canvas(canvas.tokens, masked), canvas.tokens, None
    where = first_positions(wanted, most)  # (B, most): a shape that is known in advance
    if model.drops:
        kept = first_positions(~canvas.masked, canvas.masked.shape[1] - now.masked_most)
        canvas = canvas._replace(kept=kept)
    strong, weak = branches(canvas, tuple(now.scales), where, now.use)
    enough = -(-FEWEST_ROWS // len(where))  # positions a row, of a head that sees positions alone
    drawn = model.head.draw(
        widened(strong, enough),
        [widened(features, enough) for features in weak],
        tuple(now.scales.values()),
        where=widened(where, enough),
        length=canvas.masked.shape[1],
        step=now.at.step,
        options=plan.draw,  # type: ignore[arg-type]  # who made the plan checks that they fit
        draws=draws,
    )
    values, density = drawn.values[:, :most], drawn.log_prob
    tokens = _write(canvas.tokens, wanted, where, values)
    if plan.order.needs_density:  # every masked token is drawn: now choose
        assert density is not None, "a density order needs a head with a density"
        known = torch.zeros(canvas.masked.shape, device=where.device)
        log_prob = put(known, where, density[:, :most])
        masked = lowest(plan.order.score(path, log_prob, canvas.masked, now.at, draws), now.keep)
    return Canvas(tokens, masked), tokens, density


def _write(tokens: Tensor, wanted: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """``(B, L[, C])`` tokens with the drawn values where they are wanted."""
    at = wanted if tokens.ndim == 2 else wanted.unsqueeze(-1)
    return torch.where(at, put(tokens, where, values), tokens)
