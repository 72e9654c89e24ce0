"""Which tokens stay masked: an order is a score a position, and the lowest n stay masked.

Orders that need densities score what the head just drew; the others choose first, and the head then
draws only at the chosen positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from unmask.draws import Draws
from unmask.errors import InputError, pick
from unmask.ranges import Between, Length, Ranged

KNOWN = math.inf  # a known token's score: never masked again


class Order(Protocol):
    """A score a position."""

    needs_density: ClassVar[bool]

    def start(self, grid: tuple[int, int], draws: Draws) -> Tensor | None:
        """What the order computes once, before the first step; handed to every ``score``."""
        ...

    def score(
        self,
        start: Tensor | None,
        log_prob: Tensor | None,
        masked: Tensor,
        at: Progress,
        draws: Draws,
    ) -> Tensor:
        """Scores of one step.

        Args:
            start: what :meth:`start` returned.
            log_prob: ``(B, L)`` of the drawn tokens, arbitrary where known; None unless the
                order needs a density.
            masked: ``(B, L)`` bool, unknown before this step.
            at: which step of how many.
            draws: random numbers, asked for under the purpose ``"order"``.

        Returns:
            ``(B, L)`` float32; the lowest n stay masked.
        """
        ...


@dataclass(frozen=True)
class Progress:
    """A place in the plan."""

    step: int
    """0-based."""
    steps: int
    """T of the whole plan."""


@dataclass(frozen=True, kw_only=True)
class Confidence(Ranged, path="order"):
    """log p of the drawn token plus annealed Gumbel noise (MaskGIT, algorithm 1)."""

    needs_density: ClassVar[bool] = True

    temperature: Annotated[float, Between(0, 1e6)] = 4.5
    """Noise scale at the start; 0 is greedy."""
    anneal: Literal["linear", "compound"] = "linear"
    """"linear" scales by 1 - (t+1)/T; "compound" multiplies these factors up, as UnlockMGM's
    sampler does by overwriting its variable, so that the noise dies much earlier."""
    known: Literal["keep", "rescore"] = "keep"
    """"keep" never masks a known token again; "rescore" gives it log(float32 max) = 88.7 plus the
    same noise, as UnlockMGM does, so that a hot step can mask it again."""

    def temperature_at(self, at: Progress) -> float:
        """Noise scale of a step, in float64."""
        factors = [1 - (t + 1) / at.steps for t in range(at.step + 1)]
        return self.temperature * (math.prod(factors) if self.anneal == "compound" else factors[-1])

    def start(self, grid: tuple[int, int], draws: Draws) -> None:
        """Nothing to prepare."""

    def score(
        self,
        start: Tensor | None,
        log_prob: Tensor | None,
        masked: Tensor,
        at: Progress,
        draws: Draws,
    ) -> Tensor:
        """See :meth:`Order.score`."""
        assert log_prob is not None, "the confidence order scores drawn tokens"
        known = KNOWN if self.known == "keep" else math.log(torch.finfo(torch.float32).max)
        score = torch.where(masked, log_prob, known)  # (B, L)
        temperature = self.temperature_at(at)
        if temperature == 0:
            return score
        return score + temperature * draws.gumbel("order", at.step, masked.shape[1])


@dataclass(frozen=True)
class RandomOrder(Ranged, path="order"):
    """Uniformly random positions (maskgit-pytorch's random sampler; MAR and eMIGM)."""

    needs_density: ClassVar[bool] = False

    def start(self, grid: tuple[int, int], draws: Draws) -> None:
        """Nothing to prepare: fresh numbers a step give the same law as one permutation."""

    def score(
        self,
        start: Tensor | None,
        log_prob: Tensor | None,
        masked: Tensor,
        at: Progress,
        draws: Draws,
    ) -> Tensor:
        """See :meth:`Order.score`."""
        return torch.where(masked, draws.uniform("order", at.step, masked.shape[1]), KNOWN)


def radical_inverse(index: Tensor, base: int) -> Tensor:
    """The digits of ``index`` (int64, any shape) mirrored at the point, float64 in [0, 1)."""
    value = torch.zeros(index.shape, dtype=torch.float64)
    scale = 1.0
    while index.any():
        scale /= base
        value += scale * (index % base)
        index = index // base
    return value


def halton_positions(grid: tuple[int, int]) -> Tensor:
    """Every grid cell once, in the order in which the Halton sequence first meets it.

    Halton-MaskGIT (arXiv 2503.17076): bases 2 (rows) and 3 (columns), points floored to the grid.

    Returns:
        ``(L,)`` int64 row-major positions.
    """
    rows, columns = grid
    points = 16 * rows * columns
    while True:
        index = torch.arange(1, points + 1)
        cell = (radical_inverse(index, 2) * rows).long() * columns
        cell += (radical_inverse(index, 3) * columns).long()
        seen = dict.fromkeys(cell.tolist())  # keeps first occurrences, in order
        if len(seen) == rows * columns:
            return torch.tensor(list(seen))
        points *= 2


@dataclass(frozen=True, kw_only=True)
class StaticOrder(Ranged, path="order"):
    """A path through the grid that does not depend on the content."""

    needs_density: ClassVar[bool] = False

    path: Literal["halton", "raster", "scripted"] = "halton"
    """A named path, or the one in ``script``."""
    script: Annotated[tuple[int, ...], Between(0, 2**20), Length(0, 2**20)] = ()
    """For "scripted": every row-major position once, first revealed first."""
    roll: bool = False
    """Shift the path cyclically by a random number of positions an image (Halton-MaskGIT)."""

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """``(L,)`` int64, first revealed first.

        Raises:
            InputError: when a scripted path is not a permutation of the grid's positions.
        """
        total = grid[0] * grid[1]
        if self.path == "halton":
            return halton_positions(grid)
        if self.path == "raster":
            return torch.arange(total)
        if sorted(self.script) != list(range(total)):
            raise InputError(
                f"a scripted order of {len(self.script)} positions is not a permutation of the "
                f"{total} tokens; list each of 0..{total - 1} once"
            )
        return torch.tensor(self.script)

    def start(self, grid: tuple[int, int], draws: Draws) -> Tensor:
        """``(B or 1, L)`` float32: high for positions that come early on the path."""
        positions = self.positions(grid)
        total = len(positions)
        rank = torch.empty(total, dtype=torch.long).scatter(0, positions, torch.arange(total))
        rank = rank.to(draws.device).unsqueeze(0)  # (1, L)
        if self.roll:
            rank = (rank + (draws.uniform("order", 0, 1) * total).long()) % total  # (B, L)
        return -rank.float()

    def score(
        self,
        start: Tensor | None,
        log_prob: Tensor | None,
        masked: Tensor,
        at: Progress,
        draws: Draws,
    ) -> Tensor:
        """See :meth:`Order.score`."""
        assert start is not None, "a static order is prepared by start()"
        return torch.where(masked, start, KNOWN)


AnyOrder = Confidence | RandomOrder | StaticOrder
"""Every order a plan or recipe may hold; a new one is added here."""

NAMED: dict[str, AnyOrder] = {
    "confidence": Confidence(),
    "random": RandomOrder(),
    "halton": StaticOrder(path="halton"),
    "raster": StaticOrder(path="raster"),
}
"""By the names that the command line knows."""


def named_order(name: str) -> AnyOrder:
    """The order of that name.

    Raises:
        InputError: for any other name.
    """
    return pick(NAMED, name, "order")
