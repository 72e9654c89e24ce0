"""A decoding plan with some of its numbers replaced, each by its path or by a name people know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, get_type_hints

from unmask.decode import Plan
from unmask.errors import InputError, pick
from unmask.files.serial import TAG, choices
from unmask.nn.diffusion import DiffusionDraw, Solver
from unmask.orders import NAMED, Confidence
from unmask.ranges import Between, Length, Name, Ranged

SHORT = {
    "steps": "steps",
    "guidance_scale": "guidance.scale",
    "softmax_temperature": "draw.temperature",
    "top_k": "draw.top_k",
    "solver": "draw.solver",
    "respacing": "draw.respacing",
}
"""Paths of what has a short name and means one thing."""


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

    def applied(self, plan: Plan, more: Mapping[str, Any] | None = None) -> Plan:
        """The plan with these changes.

        Args:
            plan: what is changed.
            more: changes by path, such as "guidance.ramp" or "order.kind", which go before these.

        Raises:
            InputError: one that the order or the head does not have, or a value out of range.
        """
        kept = self.order == "confidence" and isinstance(plan.order, Confidence)
        if self.order is not None and not kept:
            plan = replace(plan, order=pick(NAMED, self.order, "order"))
        more = dict(more or {})
        plan = _with_kinds(plan, {p: more.pop(p) for p in list(more) if p.endswith(f".{TAG}")})
        values = {path: getattr(self, name) for name, path in SHORT.items()}
        if self.softmax_temperature is not None and not plan.draw.of_codes:
            raise InputError(
                f"softmax_temperature={self.softmax_temperature} is of codes, and this plan draws "
                "latents; leave it out"
            )
        if self.temperature is not None:
            values[_place_of_temperature(plan, self.temperature)] = self.temperature
        given = {path: value for path, value in values.items() if value is not None}
        for path in given.keys() & more.keys():
            raise InputError(f"plan.{path} is given by its short name too; give it once")
        return _with_values(plan, {**given, **more})


def kinds_of(name: str) -> dict[str, type]:
    """Classes that a plan's field may hold, by name; none of a field that is no part of its own."""
    hint = get_type_hints(Plan)[name]
    possible = choices(hint) or ((hint,) if hasattr(hint, "__dataclass_fields__") else ())
    return {kind.__name__: kind for kind in possible}


def _with_kinds(plan: Plan, wanted: Mapping[str, str]) -> Plan:
    """The plan with parts of other classes, as those are where nothing is said."""
    for path, kind in wanted.items():
        name = path.removesuffix(f".{TAG}")
        if kind != type(getattr(plan, name)).__name__:
            cls = pick(kinds_of(name), kind, name)
            bare = [f.name for f in fields(cls) if f.default is f.default_factory]
            if bare:
                raise InputError(f"plan.{path}={kind} needs {', '.join(bare)}; make it in Python")
            plan = replace(plan, **{name: cls()})
    return plan


def _with_values(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """The plan with values by path, all those of a part at once."""
    whole, inside = dict[str, Any](), dict[str, dict[str, Any]]()
    for path, value in values.items():
        name, _, inner = path.partition(".")
        if inner:
            inside.setdefault(name, {})[inner] = value
        else:
            whole[name] = value
    for name, given in inside.items():
        part: Any = getattr(plan, name)
        for inner in given.keys() - {f.name for f in fields(part)}:
            kinds = kinds_of(name).items()
            owners = [kind for kind, cls in kinds if inner in {f.name for f in fields(cls)}]
            raise InputError(
                f"plan.{name}.{inner} is of {' and '.join(owners)}, and this plan's {name} is "
                f"{type(part).__name__}; leave it out, or choose another plan.{name}.{TAG}"
            )
        whole[name] = replace(part, **given)
    return replace(plan, **whole)


def _place_of_temperature(plan: Plan, temperature: float) -> str:
    """Path of what people mean: noise of the confidence order, or of a diffusion head."""
    if isinstance(plan.order, Confidence):
        return "order.temperature"
    if isinstance(plan.draw, DiffusionDraw):
        return "draw.temperature"
    raise InputError(
        f"temperature={temperature} has no effect on {type(plan.order).__name__}; "
        "leave it out or use the confidence order"
    )
