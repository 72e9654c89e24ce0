"""How many tokens stay masked after each decoding step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from unmask.curves import find_curve, masked_share, remaining_time, time_curve
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.ranges import Between, Name, Ranged
from unmask.types import Moment


@dataclass(frozen=True)
class Counts(Ranged, ABC, path="plan.counts"):
    """A rule for how many tokens stay masked after each step."""

    needs_density: ClassVar[bool] = False
    """True lets :meth:`adapt` look at the probabilities of every step's tokens. Each step then
    draws every masked token, and waits for the device to tell how many those are."""

    @abstractmethod
    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        """Tokens that stay masked after each step, or at most so many if :meth:`adapt` is used.

        Args:
            steps: T of the whole plan.
            first_step: steps before this one are skipped (editing); their rows are not returned.
            masked: ``(B, L)`` bool on the CPU, the canvas at the start.
            draws: random numbers, for rules whose counts are random.

        Returns:
            ``(T - first_step, B)`` int64 on the CPU, falling within each column. The source's own
            numbers: the last one may be 1, yet the decode loop reveals everything at the end.
        """

    def adapt(self, most: Tensor, at: Moment) -> Tensor:
        """Tokens that stay masked after this step, called if the rule needs a density.

        Args:
            most: ``(B,)`` int64, this step's row of the table.
            at: the step, with the log-probabilities of the tokens just drawn.

        Returns:
            ``(B,)`` int64; the loop cuts it to [0, most], and to what is masked before the step.
        """
        return most


@dataclass(frozen=True, kw_only=True)
class FixedCounts(Counts):
    """floor(M x curve(progress)), M tokens being masked at the start (MaskGIT, algorithm 1).

    A step count may be bounded so that something is revealed; the sources do it in two ways.
    """

    curve: Name = "cosine"
    """Masked share against the share of finished steps, a name of ``unmask.curves``."""
    pace: Literal["each_step", "overall"] = "each_step"
    """How steps are made to reveal something: "each_step" leaves at least one token fewer than the
    step before (JAX, UnlockMGM, MAGE, MAR); "overall" leaves at most M - 1 - t after step t
    (maskgit-pytorch), so that a flat stretch of the curve may reveal nothing."""
    least: Annotated[int, Between(0, 2**20)] = 0
    """Smallest count of masked tokens: 1 in the JAX family, whose last step also counts one."""
    precision: Literal["float32", "float64"] = "float64"
    """Arithmetic of the curve: in float32, two thirds of a cosine on 256 tokens is 127, not 128."""

    def __post_init__(self) -> None:
        """Reject an unknown curve."""
        super().__post_init__()
        find_curve(self.curve, 1)

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        """The curve's share of what is masked at the start, within bounds."""
        dtype = torch.float32 if self.precision == "float32" else torch.float64
        start = masked.sum(1)  # (B,)
        progress = torch.arange(first_step + 1, steps + 1, dtype=torch.float64) / steps
        share = masked_share(self.curve, progress.to(dtype), total=masked.shape[1])
        wanted = (share[:, None] * start.to(dtype)).floor().long()  # (T, B)
        return self._bound(wanted, start)

    def _bound(self, wanted: Tensor, start: Tensor) -> Tensor:
        rows, left = [], start
        for done, row in enumerate(wanted):
            limit = left - 1 if self.pace == "each_step" else start - 1 - done
            left = torch.minimum(row, limit).clamp(min=self.least)
            rows.append(left)
        return torch.stack(rows)


@dataclass(frozen=True, kw_only=True)
class AncestralCounts(Counts):
    """Every masked token is revealed with probability 1 - gamma(s) / gamma(t) (eMIGM).

    From time t to s. The number is drawn once for all rows, which must hide equally many: with the
    random order this is the law of independent tokens for each image. A step that would reveal
    nothing reveals one; the last step reveals the rest.
    """

    curve: Name = "exp"
    """Mask function gamma, a name of ``unmask.curves.TIME_CURVES``; sampling may use another than
    training."""

    def __post_init__(self) -> None:
        """Reject an unknown curve."""
        super().__post_init__()
        time_curve(self.curve)

    def reveal_probability(self, steps: int) -> Tensor:
        """``(steps,)`` float32, of each step; 1 for the last."""
        share = time_curve(self.curve).share(remaining_time(steps))
        chance = 1 - share[1:] / share[:-1]
        chance[-1] = 1
        return chance

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        """Random counts, equal in every row."""
        (left, *others) = masked.sum(1).unique().tolist()
        if others:
            raise InputError(
                f"rows hide from {left} to {others[-1]} tokens, and random counts are shared by "
                "all rows: edit images with equally large holes together, or use fixed counts"
            )
        rows = []
        for step, chance in enumerate(self.reveal_probability(steps)[first_step:], first_step):
            u = draws.shared_uniform("count", step, masked.shape[1])
            left -= min(left, max(1, int((u[:left] < chance).sum())))
            rows.append(left)
        return torch.tensor(rows)[:, None].expand(-1, len(masked))
