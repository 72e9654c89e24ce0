"""Named plans of a recipe that has been changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from unmask.errors import InputError
from unmask.recipes.recipe import NamedPlan, Recipe

Path = tuple[str, ...]


def follow(changed: Recipe, original: Recipe) -> tuple[Recipe, list[str]]:
    """A changed recipe with the named plans of the one that it was made from.

    What changed in the default plan changes in every named plan that had the same value there; one
    that does not fit the changed recipe even so is left out.

    Args:
        changed: without named plans.
        original: whose plans are taken.

    Returns:
        The recipe, and a sentence for each plan that was left out.
    """
    changes = dict(_differences(original.plan, changed.plan))
    kept, told = list[NamedPlan](), list[str]()
    for named in original.plans:
        try:
            plan = named.plan
            for path, (before, after) in changes.items():
                plan = _following(plan, path, before, after)
            replace(changed, plans=(*kept, moved := replace(named, plan=plan)))
            kept.append(moved)
        except InputError as reason:
            told.append(f"the plan {named.name!r} of {original.name} is left out: {reason}")
    return replace(changed, plans=tuple(kept)), told


def _differences(before: Any, after: Any, path: Path = ()) -> Iterator[tuple[Path, tuple]]:
    """Fields that differ, as deep as both sides are of one class."""
    if is_dataclass(before) and type(before) is type(after):
        for field in fields(before):
            name = field.name
            yield from _differences(getattr(before, name), getattr(after, name), (*path, name))
    elif before != after:
        yield path, (before, after)


def _following(value: Any, path: Path, before: Any, after: Any) -> Any:
    """``value`` with ``after`` at ``path``, if it has ``before`` there."""
    if not path:
        return after if value == before and type(value) is type(before) else value
    name, *deeper = path
    if not hasattr(value, name):
        return value
    return replace(value, **{name: _following(getattr(value, name), tuple(deeper), before, after)})
