"""Arguments that begin with a recipe's name, every field of which is an option."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from unmask.commands.arguments import parse
from unmask.errors import InputError
from unmask.machine.processes import launched
from unmask.recipes.named_plans import follow
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import IN_PLACE_OF, Training
from unmask.text import say

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

A = TypeVar("A", bound="DataclassInstance")


def parse_with_recipe(
    wanted: type[A],
    words: Sequence[str],
    *,
    command: str,
    known: Iterable[str],
    find: Callable[[str], Any],
) -> A:
    """The arguments of ``unmask COMMAND RECIPE [OPTIONS]``.

    Args:
        wanted: a dataclass with a field ``recipe`` (given by name) and others (options).
        words: after the command.
        command: for help and errors.
        known: names of recipes, for help.
        find: the recipe of a name or YAML file.

    Raises:
        InputError: when no recipe is named, or it does not exist.
    """
    names = ", ".join(known)
    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            print(f"usage: unmask {command} RECIPE [OPTIONS]\n")
            print(f"RECIPE is a YAML file or one of: {names}")
            print(f"unmask {command} RECIPE --help lists every option with the recipe's values")
            raise SystemExit(0)
        raise InputError(f"unmask {command} wants a recipe first: {names}, or a YAML file")
    recipe = find(words[0])
    if isinstance(recipe, Recipe):  # scores and other plans are no options
        bare = dataclasses.replace(recipe, plans=(), results=())
    else:
        bare = recipe
    found = parse(
        tyro.conf.AvoidSubcommands[wanted],  # type: ignore[valid-type,misc]
        words[1:],
        prog=f"unmask {command} {words[0]}",
        default=_incomplete(wanted, recipe=bare),
    )
    training, told = _weighed(found.recipe.training, recipe.training, words)
    whole, left_out = dataclasses.replace(found.recipe, training=training), list[str]()
    if isinstance(recipe, Recipe):
        whole, left_out = follow(dataclasses.replace(whole, results=recipe.results), recipe)
    if (told or left_out) and launched().is_main_process:
        say(*left_out, error=True)
        say(*told)
    return dataclasses.replace(found, recipe=whole)


def _weighed(now: Training, was: Training, words: Sequence[str]) -> tuple[Training, list[str]]:
    """The training that the words mean, and a sentence where a batch leaves the rate behind.

    Args:
        now: as the words have changed it.
        was: of the recipe.
        words: of the command line, which win over a recipe's other words for the same.

    Raises:
        InputError: two options say the same in different words.
    """
    options = {word.partition("=")[0].replace("_", "-") for word in words}
    for word, plain in IN_PLACE_OF.items():
        both = [f"--training.{name.replace('_', '-')}" for name in (word, plain)]
        if options.issuperset(both):
            raise InputError(f"{both[0]} and {both[1]} say the same; give one of them")
        if both[1] in options:
            unsaid: dict[str, Any] = {word: None}
            now = dataclasses.replace(now, **unsaid)
    if now.batch_size == was.batch_size or now.blr is not None or "--training.lr" in options:
        return now, []
    scaled = f"{was.lr * now.batch_size / was.batch_size:.4g}"
    return now, [
        f"a batch of {now.batch_size:,} in place of the recipe's {was.batch_size:,} keeps the "
        f"learning rate of {now.lr:g}; in proportion it would be --training.lr {scaled}"
    ]


def _incomplete(wanted: type[A], **given: Any) -> A:
    """An instance that waits for its required fields, and is therefore not checked yet."""
    made = object.__new__(wanted)
    for field in dataclasses.fields(wanted):
        bare = field.default is dataclasses.MISSING
        value = given.get(field.name, tyro.MISSING if bare else field.default)
        object.__setattr__(made, field.name, value)
    return made
