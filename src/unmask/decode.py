"""The decode loop: one for every system of the family.

Step by step: predict every token, draw some, let the order choose which stay masked, keep the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from unmask.counts import Counts, FixedCounts
from unmask.draws import Draws, sent
from unmask.errors import InputError
from unmask.guidance import Guidance, Use, Weak
from unmask.masking import lowest
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.feedback import FoldedAdapter
from unmask.nn.guided import HeadDraw
from unmask.nn.model import MaskedModel
from unmask.nn.positions import FEWEST_ROWS, first_positions, put, take, widened
from unmask.orders import KNOWN, Confidence, Order
from unmask.ranges import Between, Ranged
from unmask.types import Canvas, Drawn, Hidden, Moment, Reading, Step


@dataclass(frozen=True, kw_only=True)
class Plan(Ranged, path="plan"):
    """How to decode: counts, order, guidance, and how the head draws."""

    steps: Annotated[int, Between(1, 2**20)] = 8
    """T, network evaluations an image (twice as many where guidance is active)."""
    counts: Counts = field(default_factory=FixedCounts)
    """Rule for how many tokens stay masked after each step."""
    order: Order = field(default_factory=Confidence)
    """Rule for which tokens stay masked."""
    guidance: Guidance = field(default_factory=Guidance)
    """Away from which weaker prediction, and how strongly."""
    draw: HeadDraw = field(default_factory=CategoricalDraw)
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

    @property
    def draws_all(self) -> bool:
        """Whether every masked token is drawn before it is chosen which of them are revealed."""
        return self.order.needs_density or self.counts.needs_density

    @property
    def waits(self) -> bool:
        """Whether only a step itself tells how many tokens it draws: the host waits for it."""
        return self.counts.needs_density or (self.order.hides_again and not self.draws_all)


def check_head(plan: Plan, *, codes: bool) -> None:
    """Refuse a plan that is for another head.

    Args:
        plan: any.
        codes: whether the head gives a probability to every code; else it diffuses.

    Raises:
        InputError: naming the plan's part and the head.
    """
    for name, part in (("order", plan.order), ("counts", plan.counts)):
        if part.needs_density and not codes:
            way_out = "RandomOrder or StaticOrder" if name == "order" else "FixedCounts"
            raise InputError(
                f"plan.{name}={type(part).__name__} needs probabilities, which a diffusion head "
                f"does not give; use {way_out}"
            )
    if plan.draw.of_codes != codes:
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
        canvas: ``(B, L)``; known tokens condition the result, and are never hidden.

    Yields:
        ``plan.steps - plan.first_step`` steps; one that has nothing to draw costs nothing.

    Raises:
        InputError: the model's encoder drops hidden tokens, and rows hide unequally many.
    """
    # a CPU alone gives a row the same bits in a batch of another size, unless it is compiled
    exact = canvas.masked.device.type == "cpu" and model.compiler is None
    blank = exact and plan.draws_all and bool(canvas.masked.all())
    branches = Branches(model, class_labels, blank=blank)
    prepared = plan.order.start(model.grid, draws)
    batch = _Batch(plan, draws, branches, ~canvas.masked, prepared)
    unsound = torch.zeros((), dtype=torch.bool, device=canvas.masked.device)
    for now in _schedule(plan, canvas, draws, alike=model.drops):
        tokens, masked, log_prob = batch.advance(canvas, now)
        if log_prob is not None:
            unsound = unsound | log_prob.isnan().any()
        canvas = Canvas(tokens, masked)
        yield Step(now.step, tokens, masked, unsound)


class _Now(NamedTuple):
    """What is known of a step before any step runs."""

    step: int
    keep: Tensor  # (B,) tokens that stay masked, or at most so many
    scales: dict[Weak, Tensor]  # (B,) guidance, of branches where some row has other than 1
    use: Use  # of the weak branches
    masked: int  # masked tokens of the row that has most
    drawn: int  # drawn tokens of the row that draws most


def _schedule(plan: Plan, canvas: Canvas, draws: Draws, *, alike: bool) -> list[_Now]:
    """Counts and scales of every step, at the price of one wait for the device."""
    masked = canvas.masked.cpu()  # (B, L)
    start = masked.sum(1)  # (B,)
    _check_rows(plan, start, alike=alike)
    keep = plan.counts.table(plan.steps, plan.first_step, masked, draws)  # (S, B)
    scales = plan.guidance.table(keep, plan.steps, masked.shape[1])  # (S, B) each
    keep = torch.minimum(keep, start)  # a row that is known already stays known
    keep[-1] = 0
    before = torch.cat([start[None], keep[:-1]])  # (S, B)
    drawn = before if plan.draws_all or plan.order.hides_again else before - keep
    most = drawn.amax(1).tolist()
    strength = {weak: sent(table.float(), draws.device) for weak, table in scales.items()}
    used = [
        {weak: strength[weak][row] for weak, table in scales.items() if (table[row] != 1).any()}
        for row in range(len(keep))
    ]
    guided = [bool(count and weak) for count, weak in zip(most, used, strict=True)]
    uses = plan.guidance.uses(guided, plan.first_step)
    columns = (sent(keep, draws.device), used, uses, before.amax(1).tolist(), most)
    return list(map(_Now, range(plan.first_step, plan.steps), *columns))


def _check_rows(plan: Plan, start: Tensor, *, alike: bool) -> None:
    """Refuse ``(B,)`` masked tokens of a model whose encoder needs equally many in every row."""
    if alike and bool((start != start[0]).any()):
        raise InputError(
            f"rows hide from {int(start.min())} to {int(start.max())} tokens, and this model's "
            "encoder needs equally many in every row; decode equally large holes together"
        )
    if alike and plan.counts.needs_density:
        raise InputError(
            f"plan.counts={type(plan.counts).__name__} gives every row a count of its own, and "
            "this model's encoder needs equally many hidden tokens in every row; use FixedCounts"
        )


@dataclass(frozen=True)
class _Batch:
    """What stays the same for a batch from step to step."""

    plan: Plan
    draws: Draws
    branches: Branches
    given: Tensor  # (B, L), known from the start
    prepared: Tensor | None  # by the order

    @torch.inference_mode()
    def advance(self, canvas: Canvas, now: _Now) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step (MaskGIT, algorithm 1); MAR chooses before it predicts.

        Returns:
            ``(B, L[, C])`` every token known or drawn before any is hidden; ``(B, L)`` what is
            masked now; and, of heads with a density, log-probabilities of what was drawn.
        """
        at = Moment(now.step, self.plan.steps, canvas.masked, self.prepared)
        tokens, masked, wanted = canvas.tokens, canvas.masked, canvas.masked
        # 1. Count. The schedule has done it, up to what this step's probabilities will say.
        if not self.plan.draws_all:
            masked = self.choose(at, now.keep)
            wanted = canvas.masked & ~masked  # (B, L), what is revealed alone is drawn
        most = int(wanted.sum(1).max()) if self.plan.waits else now.drawn
        if not most:
            return tokens, masked, None
        # 2. Predict and draw.
        where = first_positions(wanted, most)  # (B, N): a shape that the host knows
        drawn = self.draw(canvas, where, now)  # (B, N[, C])
        # 3. Choose.
        if self.plan.draws_all:
            assert drawn.log_prob is not None, "these orders and counts need a head with a density"
            log_prob = put(torch.zeros(wanted.shape, device=where.device), where, drawn.log_prob)
            at = at._replace(log_prob=log_prob)  # (B, L)
            masked = self.choose(at, self.count(at, now.keep))
        # 4. Reveal.
        at_wanted = wanted if tokens.ndim == 2 else wanted.unsqueeze(-1)  # (B, L[, 1])
        tokens = torch.where(at_wanted, put(tokens, where, drawn.values), tokens)  # (B, L[, C])
        return tokens, masked, drawn.log_prob

    def count(self, at: Moment, most: Tensor) -> Tensor:
        """``(B,)`` tokens that stay masked, of at most ``most``."""
        if not self.plan.counts.needs_density:
            return most
        limit = torch.minimum(most, at.masked.sum(1))
        return torch.minimum(self.plan.counts.adapt(most, at), limit).clamp(min=0)

    def choose(self, at: Moment, keep: Tensor) -> Tensor:
        """``(B, L)`` bool, the ``keep`` positions of lowest score, which stay masked."""
        fixed = self.given if self.plan.order.hides_again else ~at.masked
        return lowest(self.plan.order.score(at, self.draws).masked_fill(fixed, KNOWN), keep)

    def draw(self, canvas: Canvas, where: Tensor, now: _Now) -> Drawn:
        """Tokens at ``(B, N)`` positions, from the network's guided prediction."""
        length, most = canvas.masked.shape[1], where.shape[1]
        if self.branches.model.drops:
            kept = first_positions(~canvas.masked, length - now.masked)  # (B, K)
            canvas = canvas._replace(kept=kept)
        read = widened(where, FEWEST_ROWS)  # (B, 4 or more): one compiled graph serves every N
        strong, weak = self.branches(canvas, tuple(now.scales), read, now.use)  # (B, 4.., D) each
        enough = -(-FEWEST_ROWS // len(where))  # positions a row, of a head that sees them alone
        strong, where, *weak = (widened(x[:, :most], enough) for x in (strong, where, *weak))
        reading = Reading(strong, where, length, now.step, weak, tuple(now.scales.values()))
        options: Any = self.plan.draw  # of this head, as who made the plan has checked
        values, log_prob = self.branches.model.head.draw(reading, options, self.draws)
        return Drawn(values[:, :most], None if log_prob is None else log_prob[:, :most])


class Branches:
    """Strong and weak predictions, step after step.

    Strong and null share one doubled batch. The self branch follows, since it starts from the
    strong branch's last hidden state.

    Args:
        model: has what the weak branches need: a null class, a feedback adapter.
        class_labels: ``(B,)`` int64, or None for an unconditional model.
        blank: whether the first evaluation knows nothing and reads everything, so that images of
            one class are one to it.
    """

    def __init__(
        self, model: MaskedModel, class_labels: Tensor | None, *, blank: bool = False
    ) -> None:
        self.model, self.class_labels, self.blank = model, class_labels, blank
        self.differences: list[Tensor] = []  # (B, L, D) each
        self.folded: FoldedAdapter | None = None  # the feedback adapter, ready for this decoding

    def __call__(
        self, canvas: Canvas, weak: Sequence[Weak], read: Tensor, use: Use = "once"
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Hidden states of the strong branch and of the weak ones, at the positions that are read.

        Args:
            canvas: B images.
            weak: the branches wanted, "null" before "self".
            read: ``(B, N)`` int64.
            use: "keep" remembers how far the weak branches are from the strong one; "reuse", which
                follows a "keep" of the same branches, leaves them as far.

        Returns:
            ``(B, N, D)`` strong, and as many for each weak branch.
        """
        if use == "once":
            return self.evaluate(canvas, weak, read)
        if use == "reuse":
            strong, _ = self.evaluate(canvas, (), read)  # (B, N, D)
            return strong, [strong + take(part, read) for part in self.differences]
        every = torch.arange(canvas.masked.shape[1], device=read.device).expand(len(read), -1)
        strong, others = self.evaluate(canvas, weak, every)  # (B, L, D) each
        self.differences = [other - strong for other in others]
        return take(strong, read), [take(other, read) for other in others]

    def evaluate(
        self, canvas: Canvas, weak: Sequence[Weak], read: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """All branches by the network, of the same shapes."""
        labels, blank, self.blank = self.class_labels, self.blank, False
        if not blank:
            return self.computed(canvas, labels, weak, read)
        given = torch.zeros(len(read), dtype=torch.long) if labels is None else labels
        kinds, of = given.unique(return_inverse=True)  # (U,) and (B,)
        few = Canvas(canvas.tokens[: len(kinds)], canvas.masked[: len(kinds)])
        labels = None if labels is None else kinds
        strong, others = self.computed(few, labels, weak, read[: len(kinds)])  # (U, L, D) each
        return strong[of], [other[of] for other in others]

    def computed(
        self, canvas: Canvas, labels: Tensor | None, weak: Sequence[Weak], read: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """All branches of some rows by the network."""
        model, own, doubled, where = self.model, labels, canvas, read
        if "null" in weak:
            assert labels is not None, "guidance by class needs class labels"
            assert model.null_class is not None, "guidance by class needs a null class"
            labels = torch.cat([labels, torch.full_like(labels, model.null_class)])  # (2B,)
            kept = None if canvas.kept is None else torch.cat([canvas.kept] * 2)  # (2B, K)
            doubled = Canvas(torch.cat([canvas.tokens] * 2), torch.cat([canvas.masked] * 2), kept)
            where = torch.cat([read, read])  # (2B, N)
        if "self" not in weak:
            strong, *null = model(doubled, labels, where).tokens.split(len(read))
            return strong, null
        self.folded = self.folded or FoldedAdapter(model, canvas, own)
        every = model(doubled, labels)
        strong, *null = every.tokens.split(len(read))  # (B, L, D) each
        seen = Hidden(every.prefix[: len(read)], strong)
        blurred = self.folded(seen, canvas, own)  # (B, L, D)
        return take(strong, read), [take(part, read) for part in (*null, blurred)]
