"""The records that travel between the parts.

Letters: ``B`` batch, ``L`` image tokens, ``P`` prefix tokens (class slots), ``N`` positions read,
``D`` width, ``V`` codes, ``C`` latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Canvas(NamedTuple):
    """A partly known image."""

    tokens: Tensor
    """``(B, L)`` int64 ids or ``(B, L, C)`` latents; meaningless where masked."""
    masked: Tensor
    """``(B, L)`` bool, true where the token is still unknown."""
    kept: Tensor | None = None
    """``(B, K)`` int64, ascending: the positions that the encoder half of a trunk sees. None
    leaves it to the trunk: all, or those not masked."""


class Hidden(NamedTuple):
    """What a trunk says about every position."""

    prefix: Tensor
    """``(B, P, D)``, P may be 0; empty where only some positions were read."""
    tokens: Tensor
    """``(B, L, D)``, or ``(B, N, D)`` at the positions read."""


class Reading(NamedTuple):
    """Features at the positions that a head is to draw in one decoding step."""

    strong: Tensor
    """``(B, N, D)``."""
    where: Tensor
    """``(B, N)`` int64, the positions in [0, ``length``)."""
    length: int
    """L of the canvas."""
    step: int = 0
    """Decoding step, which addresses the random numbers."""
    weak: Sequence[Tensor] = ()
    """``(B, N, D)`` each, the branches that guidance goes away from; none without guidance."""
    scales: Sequence[Tensor] = ()
    """``(B,)`` each, the guidance scale of each weak branch; 1 means none."""


class Drawn(NamedTuple):
    """Values that a head drew at N positions a row."""

    values: Tensor
    """``(B, N)`` ids or ``(B, N, C)`` latents."""
    log_prob: Tensor | None
    """``(B, N)``; None when the head has no density."""


class Moment(NamedTuple):
    """One decoding step as orders and counts see it."""

    step: int
    """Number of the step, 0-based."""
    steps: int
    """T, steps of the whole plan."""
    masked: Tensor
    """``(B, L)`` bool, true where the token is unknown before this step."""
    prepared: Tensor | None = None
    """What :meth:`unmask.orders.Order.start` returned."""
    log_prob: Tensor | None = None
    """``(B, L)`` float32 log-probabilities of the tokens just drawn, meaningless where known. None
    unless the order or the counts need a density."""


class MaskedBatch(NamedTuple):
    """Training examples: what is true, what is hidden, and the class."""

    tokens: Tensor
    """``(B, L)`` int64 ids or ``(B, L, C)`` latents, the truth everywhere."""
    masked: Tensor
    """``(B, L)`` bool, true where the token is hidden and must be predicted."""
    class_labels: Tensor | None
    """``(B,)`` int64; a dropped label is already the null class. None for unconditional models."""
    weight: Tensor
    """Float, ``()`` or ``(B,)``: what each token loss counts, such that their sum over processes
    and micro-batches is the global mean."""
    kept: Tensor | None = None
    """``(B, K)`` int64, the positions that the encoder sees; see :class:`Canvas`."""


class Step(NamedTuple):
    """The state after one decoding step."""

    index: int  # type: ignore[assignment]
    """0-based."""
    tokens: Tensor
    """``(B, L[, C])`` every token drawn or known so far, before any is hidden again."""
    masked: Tensor
    """``(B, L)`` bool, true where the next step starts without a value."""
    unsound: Tensor
    """``()`` bool, whether a code was drawn from probabilities that are not numbers so far."""
