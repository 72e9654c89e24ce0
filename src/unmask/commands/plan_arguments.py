"""How to sample, as options: one of the system's plans, and what to change in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from unmask.adjust import adjusted
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.nn.diffusion import Solver
from unmask.pipeline import Pipeline


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """A plan of the system's recipe, its default unless named, and changes to it."""

    plan: str | None = None
    """A plan of the system's recipe by name (unmask recipes NAME lists them) instead of its
    default; the options below change it further."""
    fast: bool = False
    """Short for --plan fast: fewer steps or a quicker solver, at a cost that docs/compare.md
    states."""
    steps: int | None = None
    """Decoding steps; more is slower and not always better."""
    order: str | None = None
    """Which tokens come first: confidence, random, halton or raster."""
    guidance_scale: float | None = None
    """1 means none; larger follows the class more closely."""
    temperature: float | None = None
    """Noise on the confidence, or in a diffusion head; larger gives more variety."""
    softmax_temperature: float | None = None
    """Of the token distribution itself."""
    top_k: int | None = None
    """Draw among the k likeliest codes only."""
    solver: Solver | None = None
    """Of a diffusion head, with --respacing."""
    respacing: str | None = None
    """Its steps: ddim25, 100 or a,b,c; of dpm-solver their number, as 14."""

    def of(self, pipeline: Pipeline) -> Plan:
        """The plan that is asked for.

        Raises:
            InputError: two plans named, one that the recipe does not have, or a change that does
                not fit.
        """
        changes = asdict(self)
        name, fast = changes.pop("plan"), changes.pop("fast")
        if name and fast:
            raise InputError(f"--fast is a plan of its own; give it or --plan {name}")
        named = "fast" if fast else name
        return adjusted(pipeline.recipe.named_plan(named) if named else pipeline.plan, **changes)
