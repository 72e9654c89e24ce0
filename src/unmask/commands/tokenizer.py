"""``unmask tokenizer``: a small VQ tokenizer from your images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.data.source import open_source
from unmask.recipes.tokenizers import TOKENIZER_RECIPES, TokenizerRecipe, get_tokenizer_recipe
from unmask.train.processes import launched, part
from unmask.train.tokenizer import train_tokenizer


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a tokenizer; started again with the same words, it continues."""

    recipe: Annotated[TokenizerRecipe, tyro.conf.arg(name="")]
    """What to train; every field is an option."""
    out: Path
    """Run folder: checkpoints, samples (originals above reconstructions), log.jsonl, model/."""
    data: Path
    """Images: a folder, WebDataset tars, IDX files or Parquet."""
    workers: int = 0
    """Processes that read images."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse_with_recipe(
        Arguments,
        words,
        command="tokenizer",
        known=TOKENIZER_RECIPES,
        find=get_tokenizer_recipe,
    )
    source = open_source(arguments.data)
    console = Console(quiet=not launched().is_main_process)
    console.print(f"{len(source)} images of {arguments.data}: {source.split_rule}")
    result = train_tokenizer(
        arguments.recipe, source, out=arguments.out, num_workers=arguments.workers
    )
    console.print(
        f"loss {result.last_loss:.4f} after {result.step} steps, {result.seconds:.0f} s; next: "
        f"unmask train RECIPE --data {arguments.data} --tokenizer {arguments.out} --out FOLDER"
    )
    part()
