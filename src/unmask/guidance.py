"""Guidance: away from a weak prediction, ``weak + s (strong - weak)``, s = 1 meaning none.

Classifier-free guidance (arXiv 2207.12598) takes the null class as the weak branch, self-guidance
(arXiv 2410.13136) a second pass of the network that its adapter has blurred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from unmask.curves import remaining_time
from unmask.errors import InputError
from unmask.ranges import Between, Ranged

Weak = Literal["null", "self"]
ByStep = Literal["constant", "steps", "power-cosine"]
ByShare = Literal["revealed", "revealed-power", "revealed-cubic", "revealed-exp", "revealed-cosine"]
Use = Literal["once", "keep", "reuse"]
"""What a step does with its weak branches: evaluates them, keeps them too, or takes the kept."""

# Ramps over the share of known tokens after the step.
REVEALED: dict[str, Callable[[Tensor], Tensor]] = {
    "revealed": lambda known: known,  # maskgit-pytorch's "linear-r"; MAR's and eMIGM's "linear"
    "revealed-power": lambda known: known**2,  # from here on eMIGM's
    "revealed-cubic": lambda known: known**3,
    "revealed-exp": lambda known: 1 - torch.exp(-5 * known),
    "revealed-cosine": lambda known: torch.cos(0.5 * math.pi * (1 - known)),
}


@dataclass(frozen=True, kw_only=True)
class Guidance(Ranged, path="guidance"):
    """How strongly predictions move away from a weak one, from which, and when."""

    extensible: ClassVar[bool] = True  # a subclass with a table of its own may stand in its place

    scale: Annotated[float, Between(0, 1e6)] = 1.0
    """Guidance scale s: 1 means none, larger trades diversity for fidelity."""
    weak: Weak = "null"
    """Weak branch that guidance goes away from: "null" predicts without the class, "self" is
    self-guidance's second pass (whose papers count from 0: their s is our 1 + s)."""
    self_scale: Annotated[float, Between(0, 1e6)] = 1.0
    """Scale of self-guidance beside guidance by class (weak="null" only); 1 means none."""
    ramp: Literal[ByStep, ByShare] = "constant"
    """How the scale s rises from 1: with t/T ("steps", maskgit-pytorch's "linear"), with
    (1 - cos(pi (t/T)^power)) / 2, or with the share f of known tokens after the step: f, f^2, f^3,
    1 - exp(-5f), cos(pi/2 (1 - f))."""
    power: Annotated[float, Between(0, 1000)] = 1.0
    """Exponent of the "power-cosine" ramp."""
    interval: Annotated[tuple[float, float] | None, Between(0, 1)] = None
    """Low and high: guide only where low < time left after the step <= high (eMIGM; time runs from
    1 to 1e-5). None always guides."""
    refresh: Annotated[int, Between(1, 2**20)] = 1
    """Steps that share one evaluation of the weak branches, in the first of them that is guided; in
    the others they stay as far from the strong one as they were (the condition cache of LazyMAR,
    arXiv 2503.12450). 1 evaluates in every step."""

    def __post_init__(self) -> None:
        """Reject two scales for one branch, and an interval whose low end is not below the high."""
        super().__post_init__()
        if self.weak == "self" and self.self_scale != 1:
            raise InputError(
                f"guidance.self_scale={self.self_scale} is the second scale beside weak='null'; "
                "with weak='self' give guidance.scale alone"
            )
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise InputError(f"guidance.interval={self.interval} needs 0 <= low < high <= 1")

    @property
    def scales(self) -> dict[Weak, float]:
        """The full scale of each weak branch that is used, the null class first."""
        scales: dict[Weak, float] = {self.weak: self.scale}
        if self.weak == "null":
            scales["self"] = self.self_scale
        return {weak: scale for weak, scale in scales.items() if scale != 1}

    def table(self, remaining: Tensor, steps: int, total: int) -> dict[Weak, Tensor]:
        """The scale of each weak branch that is used, by step and row.

        Args:
            remaining: ``(S, B)`` int64, tokens masked after each of the plan's last S steps.
            steps: T of the whole plan.
            total: L.

        Returns:
            ``(S, B)`` float64 each.
        """
        ramp = self._ramp(remaining, steps, total)
        return {weak: 1 + (scale - 1) * ramp for weak, scale in self.scales.items()}

    def uses(self, guided: Sequence[bool], first_step: int = 0) -> list[Use]:
        """What each step does with its weak branches.

        Only a step's number decides with which others it shares them, so that rows that have
        nothing to draw in some step get the same from any batch.

        Args:
            guided: whether a step has weak branches at all.
            first_step: number of the first one.
        """
        steps = enumerate(guided, first_step)
        alone = -1  # minus the step: a group that no other step is in
        groups = [k // self.refresh if now else alone - k for k, now in steps]
        return [
            "reuse" if group in groups[:row] else "keep" if group in groups[row + 1 :] else "once"
            for row, group in enumerate(groups)
        ]

    def _ramp(self, remaining: Tensor, steps: int, total: int) -> Tensor:
        """``(S, B)`` float64 in [0, 1], 0 outside the interval."""
        skipped = steps - len(remaining)
        if self.ramp in REVEALED:
            ramp = REVEALED[self.ramp]((total - remaining.double()) / total)
        else:
            rows = [self._at(t / steps) for t in range(skipped, steps)]
            ramp = torch.tensor(rows, dtype=torch.float64)[:, None].expand(remaining.shape)
        if self.interval is None:
            return ramp
        left = remaining_time(steps)[skipped + 1 :, None]  # (S, 1)
        low, high = self.interval
        return torch.where((low < left) & (left <= high), ramp, 0)

    def _at(self, elapsed: float) -> float:
        if self.ramp == "constant":
            return 1.0
        if self.ramp == "steps":
            return elapsed
        return 0.5 * (1 - math.cos(math.pi * elapsed**self.power))
