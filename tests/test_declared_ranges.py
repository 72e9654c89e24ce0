"""Every option of every command and every key of every recipe has a range, and keeps to it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from typing import Any, get_args, get_type_hints

import pytest

from unmask.cli import COMMANDS
from unmask.errors import InputError
from unmask.ranges import Declared, Ranged, ranges
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import TokenizerRecipe

BEYOND = 10**400  # of no range


def parts(annotation: Any) -> set[type]:
    """The dataclasses that an annotation names, at any depth of unions, tuples and bases."""
    if inspect.isabstract(annotation):
        return set().union(*map(parts, annotation.__subclasses__()))
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return {annotation}
    return set().union(*map(parts, get_args(annotation)))


def reachable(classes: set[type]) -> set[type]:
    """The classes and all dataclasses in their fields."""
    found: set[type] = set()
    while classes:
        found |= classes
        hints = [get_type_hints(cls, include_extras=True).values() for cls in classes]
        classes = set().union(*(parts(hint) for of_one in hints for hint in of_one)) - found
    return found


def of_commands() -> set[type]:
    """The dataclasses that the modules of commands define."""
    modules = [importlib.import_module(f"unmask.commands.{name}") for name in COMMANDS]
    defined = {
        value
        for module in modules
        for value in vars(module).values()
        if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    }
    assert len(defined) >= len(COMMANDS)
    return defined


CLASSES = sorted(
    reachable(of_commands() | {Recipe, TokenizerRecipe}),
    key=lambda cls: (cls.__name__, cls.__module__),  # several are called Arguments
)
FIELDS = [(cls, name) for cls in CLASSES for name in ranges(cls)]


def test_the_walk_reaches_far() -> None:
    far = {"Ema", "Guidance", "DiffusionDraw", "ConvKL", "Feedback", "Mixing", "EvaluationOptions"}
    assert far <= {cls.__name__ for cls in CLASSES}
    assert len(FIELDS) > 250


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_number_and_no_text_without_a_range(cls: type) -> None:
    assert issubclass(cls, Ranged)
    bare = [name for name, said in ranges(cls).items() if not said.complete]
    assert bare == []
    endless = [
        name
        for name, said in ranges(cls).items()
        if int in said.kinds and not (said.between and said.between.upper)
    ]
    assert endless == [], "whole numbers without an upper limit reach loops and allocations"


def plausible(said: Declared) -> object:
    """Some value of a range; of what is not judged, an object."""
    if said.none:
        return None
    if said.choices:
        return said.choices[0]
    if said.each is not None:
        least = said.length.at_least if said.length else 0
        return (plausible(said.each),) * least
    if said.between is not None:
        near = (said.between.at_least, said.between.at_most, said.between.above, 0.0)
        return next(value for value in near if value is not None)
    return "x" * (said.length.at_least if said.length else 0) if str in said.kinds else object()


def unchecked(cls: type, **values: object) -> Any:
    """An instance on which only ``__post_init__`` is still to be called."""
    made = object.__new__(cls)
    for name, said in ranges(cls).items():
        object.__setattr__(made, name, values.get(name, plausible(said)))
    return made


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))
def test_each_class_refuses_what_its_fields_do(cls: type, name: str) -> None:
    """A ``__post_init__`` that forgets the one of ``Ranged`` is found here."""
    said = ranges(cls)[name]
    inner = said.each if said.each is not None and said.each.kinds else said
    if not (said.kinds or said.choices or inner.kinds):
        return  # a path, a flag or a part, which is a class of its own
    wrong: object = (
        BEYOND if inner.kinds & {int, float} else "x" * 10**5 if str in inner.kinds else ()
    )
    if inner is not said:
        assert said.length is not None
        wrong = (wrong,) * max(1, said.length.at_least)
    with pytest.raises(InputError, match=rf"{name}=.* must "):
        unchecked(cls, **{name: wrong}).__post_init__()


def test_a_union_of_parts_is_walked() -> None:
    assert parts(Recipe | tuple[TokenizerRecipe, ...] | types.NoneType) == {Recipe, TokenizerRecipe}
