"""How to sample, as options: one of the system's plans, and what to change in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from unmask.commands.arguments import RULES
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.files.serial import TAG
from unmask.pipeline import Pipeline
from unmask.plan_changes import PlanChanges, kinds_of
from unmask.ranges import Name, Ranged

OWN = "own"  # what an option holds where the plan keeps its value


class PlanOptions(dict[str, Any]):
    """New values of a plan's fields by their path, such as "guidance.ramp"."""


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
    """What to replace in the plan, by short names."""
    options: Annotated[PlanOptions, tyro.conf.arg(name="plan")] = field(default_factory=PlanOptions)
    """Fields of the plan by their paths; those of an order, of counts or of a draw that the plan
    does not have want the kind that has them."""

    def of(self, pipeline: Pipeline) -> Plan:
        """The plan that is asked for.

        Raises:
            InputError: two plans named, one that the recipe does not have, or a change that does
                not fit.
        """
        if self.plan and self.fast:
            raise InputError(f"--fast is a plan of its own; give it or --plan {self.plan}")
        name = "fast" if self.fast else self.plan
        chosen = pipeline.recipe.named_plan(name) if name else pipeline.plan
        return self.changes.applied(chosen, self.options)


@RULES.struct_rule
def _every_field(info: StructTypeInfo) -> StructConstructorSpec | None:
    """An option for each field of a plan and of every class that a part of it may be."""
    if info.type is not PlanOptions:
        return None

    def given(**values: Any) -> PlanOptions:
        """What the options change."""
        return PlanOptions({path: value for path, value in values.items() if value != OWN})

    return StructConstructorSpec(given, tuple(_options(info)))


def _options(info: StructTypeInfo) -> Iterator[StructFieldSpec]:
    for part in _fields_of(Plan, info):
        kinds = kinds_of(part.name)
        if not kinds:
            yield _option(part.name, {"": part})
            continue
        if len(kinds) > 1:
            known = "; ".join(f"{name}, {_first_line(cls)}" for name, cls in kinds.items())
            named: Any = Literal[tuple(kinds)]
            told = f"{_told(part)} {known}."
            kind = dataclasses.replace(part, type=named, helptext=told)
            yield _option(f"{part.name}.{TAG}", {"": kind})
        by_name: dict[str, dict[str, StructFieldSpec]] = {}
        for name, cls in kinds.items():
            for inner in _fields_of(cls, info):
                by_name.setdefault(inner.name, {})[name if len(kinds) > 1 else ""] = inner
        for name, same in by_name.items():
            yield _option(f"{part.name}.{name}", same)


def _fields_of(cls: type, info: StructTypeInfo) -> tuple[StructFieldSpec, ...]:
    """Fields of a dataclass with their words and ranges."""
    spec = ConstructorRegistry.get_struct_spec(
        dataclasses.replace(info, type=cls, default=tyro.MISSING)
    )
    assert isinstance(spec, StructConstructorSpec), "a plan's parts are dataclasses"
    return spec.fields


def _option(path: str, same: dict[str, StructFieldSpec]) -> StructFieldSpec:
    """An option for what has one name in several classes, of which each says what it is there."""
    types: Any = Union[(*(found.type for found in same.values()), Literal[OWN])]
    told = " ".join(f"{kind}: {_told(f)}" if kind else _told(f) for kind, f in same.items())
    told += f' "{OWN}" keeps the plan\'s.'
    return StructFieldSpec(name=path, type=types, default=OWN, helptext=told)


def _told(found: StructFieldSpec) -> str:
    return (found.helptext() if callable(found.helptext) else found.helptext) or ""


def _first_line(cls: type) -> str:
    line = (cls.__doc__ or "").splitlines()[0].rstrip(".")
    return line[:1].lower() + line[1:]
