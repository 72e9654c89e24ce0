"""``unmask recipes``: what the library knows how to build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unmask.commands.arguments import parse
from unmask.files.serial import to_dict
from unmask.ranges import Length, Ranged
from unmask.recipes import RECIPES, get
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.text import cell


@dataclass(frozen=True)
class Arguments(Ranged):
    """List the systems, or print one as YAML: a file to edit and train from."""

    name: Annotated[str, tyro.conf.Positional, Length(0, 4096)] = ""
    """Print this recipe as YAML instead of the list."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask recipes")
    if arguments.name:
        print(yaml.safe_dump(to_dict(get(arguments.name)), sort_keys=False, allow_unicode=True))
        return
    table = Table(title="recipes")
    for column in ("name", "what", "steps", "published results"):
        table.add_column(column)
    for recipe in RECIPES.values():
        results = [f"{r.metric} {r.value:g} ({r.setting})" for r in recipe.results]
        table.add_row(
            cell(recipe.name),
            cell(recipe.summary),
            str(recipe.plan.steps),
            Text("\n").join(map(cell, results)),
        )
    for name, tokenizer in TOKENIZER_RECIPES.items():
        table.add_row(cell(name), cell(tokenizer.summary))
    Console().print(table)
