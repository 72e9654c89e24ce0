"""``unmask recipes``: what the library knows how to build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
import yaml

from unmask.commands.arguments import parse
from unmask.files.serial import to_dict
from unmask.ranges import Length, Ranged
from unmask.recipes import RECIPES, get
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.show import Table


@dataclass(frozen=True)
class Arguments(Ranged):
    """List the systems, or print one as YAML: a file to edit and train from."""

    name: Annotated[str, tyro.conf.Positional, Length(0, 4096)] = ""
    """Name or YAML file of a recipe to print as YAML; without one, all are listed."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask recipes")
    if arguments.name:
        print(yaml.safe_dump(to_dict(get(arguments.name)), sort_keys=False, allow_unicode=True))
        return
    systems = [
        (
            recipe.name,
            recipe.summary,
            recipe.plan.steps,
            tuple(f"{r.metric} {r.value:g} ({r.setting})" for r in recipe.results),
        )
        for recipe in RECIPES.values()
    ]
    tokenizers = [(name, made.summary, "", "") for name, made in TOKENIZER_RECIPES.items()]
    titles = ("recipe", "what", "steps", "published results")
    Table(titles=titles, rows=[*systems, *tokenizers]).draw()
