"""A decoding plan with some of its numbers replaced, each by the name that people know it by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from unmask.decode import Plan
from unmask.errors import InputError, pick
from unmask.nn.diffusion import DiffusionDraw, Solver
from unmask.nn.guided import HeadDraw
from unmask.orders import NAMED, Confidence
from unmask.ranges import Between, Length, Name, Ranged


@dataclass(frozen=True, kw_only=True)
class PlanChanges(Ranged):
    """What to replace in a plan; None keeps the plan's own."""

    steps: Annotated[int | None, Between(1, 2**20)] = None
    """Decoding steps; more is slower and not always better. None keeps the plan's."""
    order: Name | None = None
    """Order in which tokens are revealed: confidence (with the plan's own numbers if it has that
    order), random, halton or raster. None keeps the plan's."""
    guidance_scale: Annotated[float | None, Between(0, 1e6)] = None
    """Scale of guidance: 1 means none; larger follows the class more closely. None keeps the
    plan's."""
    temperature: Annotated[float | None, Between(0, 1e6)] = None
    """Noise on the confidence, or in a diffusion head; larger gives more variety. None keeps the
    plan's."""
    softmax_temperature: Annotated[float | None, Between(1e-6, 1e6)] = None
    """Temperature of the distribution of codes; below 1 sharpens it. None keeps the plan's."""
    top_k: Annotated[int | None, Between(1, 2**24)] = None
    """Draw among the k likeliest codes only. None keeps the plan's."""
    solver: Solver | None = None
    """Sampler inside a diffusion head (MAR, eMIGM). None keeps the plan's."""
    respacing: Annotated[str | None, Length(0, 255)] = None
    """Steps of a diffusion head: ddim25 (25 at a whole stride), 100 (spread evenly), 10,15,20 (by
    section), or empty for all 1000; of dpm-solver the number of network evaluations, such as 14.
    None keeps the plan's."""

    def applied(self, plan: Plan) -> Plan:
        """The plan with these changes.

        Raises:
            InputError: one that the order or the head does not have, or a value out of range.
        """
        kept = self.order == "confidence" and isinstance(plan.order, Confidence)
        if self.order is not None and not kept:
            plan = replace(plan, order=pick(NAMED, self.order, "order"))
        if self.temperature is not None:
            plan = _at_temperature(plan, self.temperature)
        guidance = replace(plan.guidance, **_given(scale=self.guidance_scale))
        draw = self._drawn(plan.draw)
        return replace(plan, guidance=guidance, draw=draw, **_given(steps=self.steps))

    def _drawn(self, draw: HeadDraw) -> HeadDraw:
        """How tokens are drawn, by options that one kind of head has each."""
        of_codes = _given(top_k=self.top_k, temperature=self.softmax_temperature)
        of_latents = _given(solver=self.solver, respacing=self.respacing)
        if of_codes and not draw.of_codes:
            raise InputError(
                "top_k and softmax_temperature are of codes, and this plan draws latents; leave "
                "them out"
            )
        if of_latents and draw.of_codes:
            raise InputError(
                "solver and respacing are of diffusion heads, and this plan draws codes; leave "
                "them out"
            )
        return replace(draw, **of_codes, **of_latents)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _at_temperature(plan: Plan, temperature: float) -> Plan:
    """The temperature that people mean: of the confidence order, or of a diffusion head's noise."""
    if isinstance(plan.order, Confidence):
        return replace(plan, order=replace(plan.order, temperature=temperature))
    if isinstance(plan.draw, DiffusionDraw):
        return replace(plan, draw=replace(plan.draw, temperature=temperature))
    raise InputError(
        f"temperature={temperature} has no effect on {type(plan.order).__name__}; "
        "leave it out or use the confidence order"
    )
