"""How to sample, as options: one of the system's plans, and what to change in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from unmask.decode import Plan
from unmask.errors import InputError
from unmask.pipeline import Pipeline
from unmask.plan_changes import PlanChanges
from unmask.ranges import Name, Ranged


@dataclass(frozen=True, kw_only=True)
class PlanArguments(Ranged):
    """A plan of the system's recipe, its default unless named, and changes to it."""

    plan: Name | None = None
    """Decoding plan of the system's recipe by name (unmask recipes NAME lists them), which other
    options change further. None means the recipe's default plan."""
    fast: bool = False
    """Short for --plan fast: fewer steps or a quicker solver, at a cost that docs/compare.md
    states."""
    changes: Annotated[PlanChanges, tyro.conf.arg(name="")] = field(default_factory=PlanChanges)
    """What to replace in the plan."""

    def of(self, pipeline: Pipeline) -> Plan:
        """The plan that is asked for.

        Raises:
            InputError: two plans named, one that the recipe does not have, or a change that does
                not fit.
        """
        if self.plan and self.fast:
            raise InputError(f"--fast is a plan of its own; give it or --plan {self.plan}")
        name = "fast" if self.fast else self.plan
        return self.changes.applied(pipeline.recipe.named_plan(name) if name else pipeline.plan)
