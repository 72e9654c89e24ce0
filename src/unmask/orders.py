"""Orders say which tokens stay masked: each gives positions a score, and the lowest n do.

Orders that need densities score what the head just drew; the others choose first, and the head then
draws only at the chosen positions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from unmask.draws import Draws, sent
from unmask.errors import InputError
from unmask.ranges import Between, Length, Ranged
from unmask.types import Moment

KNOWN = math.inf  # score of a token that is never masked again
CERTAIN = math.log(torch.finfo(torch.float32).max)  # 88.7, what UnlockMGM scores a known token by


@dataclass(frozen=True)
class Order(Ranged, ABC, path="order"):
    """A rule that scores every position; the lowest n stay masked."""

    needs_density: ClassVar[bool] = False
    """True draws every masked token and then scores it by its probability; False chooses first, and
    only the tokens to be revealed are drawn."""

    @property
    def hides_again(self) -> bool:
        """Whether tokens revealed by an earlier step are scored too, so that some may be hidden.

        Tokens given from outside are never hidden. Where nothing needs a density, how many tokens a
        step draws is then known from the scores alone: each step waits for the device once.
        """
        return False

    def start(self, grid: tuple[int, int], draws: Draws) -> Tensor | None:
        """What the order computes once, before the first step: ``Moment.prepared`` of every step.

        Args:
            grid: rows and columns of tokens.
            draws: random numbers, asked for under the purpose ``"order"``.
        """
        return None

    @abstractmethod
    def score(self, at: Moment, draws: Draws) -> Tensor:
        """Scores of one step.

        Args:
            at: which step it is, what is masked, and what was drawn.
            draws: random numbers, asked for under the purpose ``"order"``.

        Returns:
            ``(B, L)`` float32; the lowest n stay masked. Scores of known tokens are read only if
            the order hides again.
        """


@dataclass(frozen=True, kw_only=True)
class Confidence(Order):
    """log p of the drawn token plus annealed Gumbel noise (MaskGIT, algorithm 1)."""

    needs_density: ClassVar[bool] = True

    temperature: Annotated[float, Between(0, 1e6)] = 4.5
    """Scale of the Gumbel noise at the start; 0 is greedy."""
    anneal: Literal["linear", "compound"] = "linear"
    """"linear" scales by 1 - (t+1)/T; "compound" multiplies these factors up, as UnlockMGM's
    sampler does by overwriting its variable, so that the noise dies much earlier."""
    known: Literal["keep", "rescore"] = "keep"
    """"keep" never masks a known token again; "rescore" gives it log(float32 max) = 88.7 plus the
    same noise, as UnlockMGM does, so that a hot step can mask it again, unless it was given."""

    @property
    def hides_again(self) -> bool:
        """Whether known tokens are scored again."""
        return self.known == "rescore"

    def temperature_at(self, step: int, steps: int) -> float:
        """Noise scale of a step of the plan's T, in float64."""
        factors = [1 - (t + 1) / steps for t in range(step + 1)]
        return self.temperature * (math.prod(factors) if self.anneal == "compound" else factors[-1])

    def score(self, at: Moment, draws: Draws) -> Tensor:
        """The log-probability of what was drawn, 88.7 where known, plus noise."""
        assert at.log_prob is not None, "the confidence order scores drawn tokens"
        score = torch.where(at.masked, at.log_prob, CERTAIN)  # (B, L)
        temperature = self.temperature_at(at.step, at.steps)
        if temperature == 0:
            return score
        return score + temperature * draws.gumbel("order", at.step, at.masked.shape[1])


@dataclass(frozen=True)
class RandomOrder(Order):
    """Uniformly random positions (maskgit-pytorch's random sampler; MAR and eMIGM).

    Fresh numbers in every step give the same law as one permutation.
    """

    def score(self, at: Moment, draws: Draws) -> Tensor:
        """``(B, L)`` uniform numbers."""
        return draws.uniform("order", at.step, at.masked.shape[1])


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
class StaticOrder(Order):
    """A path through the grid that does not depend on the content."""

    path: Literal["halton", "raster", "scripted"] = "halton"
    """The path's name; "scripted" takes the one in ``script``."""
    script: Annotated[tuple[int, ...], Between(0, 2**20), Length(0, 2**20)] = ()
    """Every row-major position once, first revealed first (path="scripted" only)."""
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
        rank = sent(rank, draws.device).unsqueeze(0)  # (1, L)
        if self.roll:
            rank = (rank + (draws.uniform("order", 0, 1) * total).long()) % total  # (B, L)
        return -rank.float()

    def score(self, at: Moment, draws: Draws) -> Tensor:
        """What :meth:`start` prepared, in every step."""
        assert at.prepared is not None, "a static order is prepared by start()"
        return at.prepared.expand(at.masked.shape)


NAMED: dict[str, Order] = {
    "confidence": Confidence(),
    "random": RandomOrder(),
    "halton": StaticOrder(path="halton"),
    "raster": StaticOrder(path="raster"),
}
"""Orders by the names that ``unmask sample --order`` knows."""
