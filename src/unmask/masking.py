"""Masks of training: the tokens that an example hides.

A ratio is drawn, rounded to a count, and the ``count`` positions of lowest random score are hidden;
:func:`lowest` is the same rule by which decoding chooses what stays masked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from unmask.curves import find_curve, masked_share, time_curve
from unmask.errors import InputError
from unmask.nn.positions import first_positions
from unmask.ranges import Between, Name, Ranged

GroupSize = Annotated[int, Between(1, 10**9)]


def lowest(score: Tensor, count: Tensor) -> Tensor:
    """Mark the positions of lowest score in each row.

    Args:
        score: ``(B, L)``; equal scores are taken in an unspecified order, never more than asked.
        count: ``(B,)`` int64 in [0, L].

    Returns:
        ``(B, L)`` bool with exactly ``count`` true in each row.
    """
    return _first(score.argsort(1), count)


def _first(order: Tensor, count: Tensor) -> Tensor:
    """Mark the first positions of ``(B, L)`` orders."""
    chosen = torch.arange(order.shape[1], device=order.device) < count[:, None]  # (B, L), by rank
    return torch.zeros_like(chosen).scatter(1, order, chosen)


class Masks(NamedTuple):
    """What a group of training examples hides.

    Args:
        masked: ``(B, L)`` bool, true where the token is hidden.
        kept: ``(B, K)`` int64, the positions that the encoder sees; see
            :class:`unmask.types.Canvas`.
        weight: ``(B,)`` float32, what a token's loss counts beyond the mean; None means 1.
    """

    masked: Tensor
    kept: Tensor | None = None
    weight: Tensor | None = None


class Masking(Ranged, ABC, path="masking"):
    """A law of the masks of training examples."""

    group: int | None
    """Images whose hidden tokens are averaged together; None means the whole batch."""

    @abstractmethod
    def draw(self, batch: int, total: int, generator: torch.Generator) -> Masks:
        """Random masks.

        Args:
            batch: B, the images of a group.
            total: L.
            generator: the only source of random numbers, at the start of a stream of its own.
        """

    def part(
        self, batch: int, total: int, generator: torch.Generator, rows: Tensor
    ) -> tuple[Masks, Tensor]:
        """Masks of some images of a group, the same as :meth:`draw` gives them.

        A law may leave out what only the others need: here all is drawn.

        Args:
            batch: B, see :meth:`draw`.
            total: L.
            generator: see :meth:`draw`.
            rows: ``(n,)`` int64 in [0, B), at least one.

        Returns:
            What the n images hide; ``(B,)`` int64, how many tokens each of the group does.
        """
        drawn = self.draw(batch, total, generator)
        own = [None if of_all is None else of_all[rows] for of_all in drawn]
        return Masks(*own), drawn.masked.sum(1)  # type: ignore[arg-type]


class _ByRow(Masking):
    """A law whose costly part, to rank an image's positions, is done for some images alone."""

    def draw(self, batch: int, total: int, generator: torch.Generator) -> Masks:
        """Random masks of all images; see :meth:`Masking.draw`."""
        return self.part(batch, total, generator, torch.arange(batch))[0]

    @abstractmethod
    def part(
        self, batch: int, total: int, generator: torch.Generator, rows: Tensor
    ) -> tuple[Masks, Tensor]:
        """Random masks of some images; see :meth:`Masking.part`."""


def _scores(rows: Tensor, total: int, generator: torch.Generator) -> Tensor:
    """``(n, L)`` uniform numbers of some rows, which need those before them to be drawn."""
    return torch.rand(int(rows.max()) + 1, total, generator=generator)[rows]


@dataclass(frozen=True, kw_only=True)
class TrainMasking(_ByRow):
    """The mask of a training batch: ratio = curve(u), u uniform, then a rounded count.

    MaskGIT (arXiv 2202.04200, section 3.1). maskgit-pytorch shares one ratio by the batch and
    rounds up; UnlockMGM draws one an image and rounds half to even, at least one token.
    """

    curve: Name = "cosine"
    """Masked share against the uniform number u, a name of ``unmask.curves``."""
    shared: bool = False
    """Draw one mask ratio for a whole group instead of one an image."""
    rounding: Literal["up", "nearest"] = "nearest"
    """How ratio x tokens becomes a count: "up", or "nearest" with halves to even; always at least
    one token."""
    least_ratio: Annotated[float, Between(0, 1)] = 0.0
    """Smallest mask ratio; what is drawn below it is raised to it."""
    group: GroupSize | None = None
    """Images whose hidden tokens are averaged together, and which have one ratio if that is shared;
    None means the whole batch. With 1 every image counts equally, however much it hides."""

    def __post_init__(self) -> None:
        """Reject an unknown curve."""
        super().__post_init__()
        find_curve(self.curve, 1)

    def counts(self, u: Tensor, total: int) -> Tensor:
        """Masked tokens for uniform numbers ``u`` (any shape, float64 for exact published counts).

        Returns:
            int64 of the same shape, in [1, total].
        """
        share = masked_share(self.curve, u, total=total).clamp(min=self.least_ratio)
        size = (share * total).ceil() if self.rounding == "up" else (share * total).round()
        return size.long().clamp(1, total)

    def part(
        self, batch: int, total: int, generator: torch.Generator, rows: Tensor
    ) -> tuple[Masks, Tensor]:
        """Ratios, one for the group if ``shared``, and then ``(B, L)`` scores."""
        ratios = 1 if self.shared else batch
        u = torch.rand(ratios, generator=generator, dtype=torch.float64)
        counts = self.counts(u, total).expand(batch)
        return Masks(lowest(_scores(rows, total, generator), counts[rows])), counts


@dataclass(frozen=True, kw_only=True)
class NormalMasking(_ByRow):
    """One ratio a group from a truncated normal distribution, rounded up (MAGE, MAR).

    MAGE (arXiv 2211.09117, section 3.1) hides the ``least`` share from its encoder altogether and
    shows it the other hidden tokens as masks; MAR's encoder (arXiv 2406.11838) sees known tokens
    only.
    """

    mean: Annotated[float, Between(-1000, 1000)]
    """Mean of the normal distribution of mask ratios before it is cut."""
    std: Annotated[float, Between(above=0, at_most=1000)] = 0.25
    """Standard deviation of the normal distribution of mask ratios before it is cut."""
    least: Annotated[float, Between(above=0, at_most=1)]
    """Smallest mask ratio, where the distribution is cut."""
    most: Annotated[float, Between(above=0, at_most=1)] = 1.0
    """Largest mask ratio, where the distribution is cut."""
    drop: Literal["hidden", "least"] = "hidden"
    """What the encoder does not see: every hidden token, or ceil(least x tokens) of them."""
    group: GroupSize | None = None
    """Images that have one ratio, and whose hidden tokens are averaged together; None means the
    whole batch. MAR and MAGE draw a ratio in each process, so for 32 or 64 images."""

    def __post_init__(self) -> None:
        """Reject a smallest ratio above the largest."""
        super().__post_init__()
        if self.least > self.most:
            raise InputError(f"masking.least={self.least} must be at most masking.most={self.most}")

    def ratio(self, u: Tensor) -> Tensor:
        """The distribution's inverse: uniform float64 numbers in [0, 1) to ratios."""
        limits = torch.tensor([self.least, self.most], dtype=torch.float64)
        low, high = torch.special.ndtr((limits - self.mean) / self.std)
        return self.mean + self.std * torch.special.ndtri(low + u * (high - low))

    def hide(self, ratio: Tensor, score: Tensor) -> Masks:
        """Hide the positions of lowest score.

        Args:
            ratio: ``()`` float64, the share to hide.
            score: ``(B, L)``.
        """
        batch, total = score.shape
        count = (ratio * total).ceil().long().clamp(1, total)
        dropped = count if self.drop == "hidden" else math.ceil(total * self.least)
        order = score.argsort(1)
        unseen = _first(order, torch.as_tensor(dropped).expand(batch))
        masked = _first(order, count.expand(batch))
        return Masks(masked, kept=first_positions(~unseen, total - int(dropped)))

    def part(
        self, batch: int, total: int, generator: torch.Generator, rows: Tensor
    ) -> tuple[Masks, Tensor]:
        """One ratio, and then ``(B, L)`` scores."""
        u = torch.rand((), generator=generator, dtype=torch.float64)
        masks = self.hide(self.ratio(u), _scores(rows, total, generator))
        return masks, masks.masked[0].sum().expand(batch)


LEAST_TIME = 1e-3  # of a training mask: its loss weight stays finite


@dataclass(frozen=True, kw_only=True)
class BernoulliMasking(_ByRow):
    """Each token hidden with probability gamma(p), p = 0.999 t + 0.001, t uniform (eMIGM).

    arXiv 2503.07197, section 3. Shared, one mask is drawn (again, until it hides two tokens) and
    every image gets it in an order of its own, so that all hide equally many.
    """

    curve: Name = "exp"
    """Mask function gamma, a name of ``unmask.curves.TIME_CURVES``."""
    least_time: Annotated[float, Between(0, 1)] = 0.2
    """Smallest time t of a shared mask; what is drawn below it is raised to it."""
    shared: bool = True
    """Draw one mask for a group, as a dropping encoder needs; else each image has its own t."""
    weighted: bool = False
    """Weigh a token's loss by gamma'(p) / gamma(p) instead of 1."""
    group: GroupSize | None = None
    """Images that have one mask if it is shared, and whose hidden tokens are averaged together;
    None means the whole batch. eMIGM draws a mask in each process, so for 32 or 64 images."""

    def __post_init__(self) -> None:
        """Reject an unknown curve."""
        super().__post_init__()
        time_curve(self.curve)

    def time(self, u: Tensor) -> Tensor:
        """Probabilities' argument p of uniform numbers in [0, 1), any shape."""
        t = u.clamp(min=self.least_time) if self.shared else u
        return (1 - LEAST_TIME) * t + LEAST_TIME

    def weight(self, time: Tensor) -> Tensor:
        """Weight of a token's loss at p, any shape."""
        return time_curve(self.curve).log_derivative(time) if self.weighted else torch.ones(())

    def part(
        self, batch: int, total: int, generator: torch.Generator, rows: Tensor
    ) -> tuple[Masks, Tensor]:
        """Times first, and then what is hidden; a shared time is drawn until two tokens are."""
        share = time_curve(self.curve).share
        if not self.shared:
            time = self.time(torch.rand(batch, generator=generator))  # (B,)
            masked = torch.rand(batch, total, generator=generator) < share(time)[:, None]
            weight = self.weight(time).expand(batch)
            return Masks(masked[rows], weight=weight[rows]), masked.sum(1)
        count = 0
        while count < min(2, total):
            time = self.time(torch.rand((), generator=generator))
            count = int((torch.rand(total, generator=generator) < share(time)).sum())
        counts = torch.tensor(count).expand(batch)
        masked = lowest(_scores(rows, total, generator), counts[rows])
        kept = first_positions(~masked, total - count)
        return Masks(masked, kept, self.weight(time).expand(len(rows))), counts
