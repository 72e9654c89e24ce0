"""A decoding plan with some of its numbers replaced, each by the name that people know it by."""

from __future__ import annotations

from dataclasses import replace

from unmask.decode import AnyDraw, Plan
from unmask.errors import InputError
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.diffusion import DiffusionDraw, Solver
from unmask.orders import Confidence, named_order


def adjusted(
    plan: Plan,
    *,
    steps: int | None = None,
    order: str | None = None,
    guidance_scale: float | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    softmax_temperature: float | None = None,
    solver: Solver | None = None,
    respacing: str | None = None,
) -> Plan:
    """A plan with some of its numbers replaced; None keeps the plan's own.

    Args:
        plan: any.
        steps: network evaluations an image.
        order: a name of :data:`unmask.orders.NAMED`; "confidence" keeps the numbers of a plan that
            has that order.
        guidance_scale: 1 means none.
        temperature: of the confidence order, or of a diffusion head's noise.
        top_k: of a head of codes.
        softmax_temperature: of a head of codes.
        solver: of a diffusion head.
        respacing: of a diffusion head.

    Raises:
        InputError: an option that the order or the head does not have, or a value out of range.
    """
    if steps is not None:
        plan = replace(plan, steps=steps)
    if order is not None and not (order == "confidence" and isinstance(plan.order, Confidence)):
        plan = replace(plan, order=named_order(order))
    if guidance_scale is not None:
        plan = replace(plan, guidance=replace(plan.guidance, scale=guidance_scale))
    if temperature is not None:
        plan = _at_temperature(plan, temperature)
    if top_k is not None or softmax_temperature is not None:
        plan = replace(plan, draw=_among(plan.draw, top_k, softmax_temperature))
    if solver is not None or respacing is not None:
        plan = replace(plan, draw=_in_steps(plan.draw, solver, respacing))
    return plan


def _among(draw: AnyDraw, top_k: int | None, softmax_temperature: float | None) -> CategoricalDraw:
    if not isinstance(draw, CategoricalDraw):
        raise InputError(
            "top_k and softmax_temperature are of codes, and this plan draws latents; leave "
            "them out"
        )
    return replace(
        draw,
        top_k=draw.top_k if top_k is None else top_k,
        temperature=draw.temperature if softmax_temperature is None else softmax_temperature,
    )


def _in_steps(draw: AnyDraw, solver: Solver | None, respacing: str | None) -> DiffusionDraw:
    if not isinstance(draw, DiffusionDraw):
        raise InputError(
            "solver and respacing are of diffusion heads, and this plan draws codes; leave them out"
        )
    steps = draw.respacing if respacing is None else respacing
    return replace(draw, solver=solver or draw.solver, respacing=steps)


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
