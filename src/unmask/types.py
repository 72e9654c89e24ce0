"""The records that travel between the parts.

Letters: ``B`` batch, ``L`` image tokens, ``P`` prefix tokens (class slots), ``N`` positions read,
``D`` width, ``V`` codes, ``C`` latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Canvas(NamedTuple):
    """A partly known image.

    Args:
        tokens: ``(B, L)`` int64 ids or ``(B, L, C)`` latents; meaningless where masked.
        masked: ``(B, L)`` bool, true where the token is still unknown.
        kept: ``(B, K)`` int64, ascending: the positions that the encoder half of a trunk sees. None
            leaves it to the trunk: all, or those not masked.
    """

    tokens: Tensor
    masked: Tensor
    kept: Tensor | None = None


class Hidden(NamedTuple):
    """What a trunk says about every position.

    Args:
        prefix: ``(B, P, D)``, P may be 0; empty where only some positions were read.
        tokens: ``(B, L, D)``, or ``(B, N, D)`` at the positions read.
    """

    prefix: Tensor
    tokens: Tensor


class Reading(NamedTuple):
    """Features at the positions that a head is to draw in one decoding step.

    Args:
        strong: ``(B, N, D)``.
        where: ``(B, N)`` int64, the positions in [0, ``length``).
        length: L of the canvas.
        step: Decoding step, which addresses the random numbers.
        weak: ``(B, N, D)`` each, the branches that guidance goes away from; none without guidance.
        scales: ``(B,)`` each, the guidance scale of each weak branch; 1 means none.
    """

    strong: Tensor
    where: Tensor
    length: int
    step: int = 0
    weak: Sequence[Tensor] = ()
    scales: Sequence[Tensor] = ()


class Drawn(NamedTuple):
    """Values that a head drew at N positions a row.

    Args:
        values: ``(B, N)`` ids or ``(B, N, C)`` latents.
        log_prob: ``(B, N)``; None when the head has no density.
    """

    values: Tensor
    log_prob: Tensor | None


class Moment(NamedTuple):
    """One decoding step as orders and counts see it.

    Args:
        step: Number of the step, 0-based.
        steps: T, steps of the whole plan.
        masked: ``(B, L)`` bool, true where the token is unknown before this step.
        prepared: What :meth:`unmask.orders.Order.start` returned.
        log_prob: ``(B, L)`` float32 log-probabilities of the tokens just drawn, meaningless where
            known. None unless the order or the counts need a density.
    """

    step: int
    steps: int
    masked: Tensor
    prepared: Tensor | None = None
    log_prob: Tensor | None = None


class MaskedBatch(NamedTuple):
    """Training examples: what is true, what is hidden, and the class.

    Args:
        tokens: ``(B, L)`` int64 ids or ``(B, L, C)`` latents, the truth everywhere.
        masked: ``(B, L)`` bool, true where the token is hidden and must be predicted.
        class_labels: ``(B,)`` int64; a dropped label is already the null class. None for
            unconditional models.
        weight: Float, ``()`` or ``(B,)``: what each token loss counts, such that their sum over
            processes and micro-batches is the global mean.
        kept: ``(B, K)`` int64, the positions that the encoder sees; see :class:`Canvas`.
    """

    tokens: Tensor
    masked: Tensor
    class_labels: Tensor | None
    weight: Tensor
    kept: Tensor | None = None


class Step(NamedTuple):
    """The state after one decoding step.

    Args:
        index: 0-based.
        tokens: ``(B, L[, C])`` every token drawn or known so far, before any is hidden again.
        masked: ``(B, L)`` bool, true where the next step starts without a value.
        unsound: ``()`` bool, whether a code was drawn from probabilities that are not numbers so
            far.
    """

    index: int  # type: ignore[assignment]
    tokens: Tensor
    masked: Tensor
    unsound: Tensor
