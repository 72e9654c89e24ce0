"""``unmask takeover``: the training of a source project goes on as a run of this library."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.errors import InputError
from unmask.networks.sizes import Heads
from unmask.projects.foreign import Kind
from unmask.ranges import Between, Ranged
from unmask.recipes.recipe import Recipe
from unmask.takeover import Takeover, find_training, take_over
from unmask.text import say
from unmask.train.run_folder import RECIPE

USAGE = "usage: unmask takeover SOURCE OUT [OPTIONS]"
HELP = f"""{USAGE}

SOURCE is a run of maskgit-pytorch (or a step folder of it), a checkpoint-last.pth of MAR, eMIGM or
MAGE, or a folder checkpoint-STEP of UnlockMGM. OUT is the run folder that is made of it.
unmask takeover SOURCE --help lists every option with the values that the source tells"""


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Make a run of a source project's training, with its moments, average, step and schedule.

    unmask train OUT/recipe.yaml --cache CACHE --out OUT then goes on with it. The source is only
    read. What it tells are the defaults of the recipe's options; what is changed here stays so.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """New run folder."""
    kind: Kind | None = None
    """Project that the source must be of; None recognises it."""
    heads: Heads | None = None
    """Attention heads a block, which no shape tells; to be given for a maskgit-pytorch run without
    its ``config-*.yaml``, and a MAGE, MAR or eMIGM of no published width. None takes the source's
    or the published number."""
    decoder_heads: Heads | None = None
    """Attention heads a block in the decoder of a MAGE, MAR or eMIGM. None means the published
    number, or for MAR and eMIGM that of --heads."""
    images: Annotated[int, Between(1, 10**10)] | None = None
    """Training images of the source, by which its epochs become steps. None finds them by the
    number of steps that its optimiser has counted."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """Recipe of the run; every field of it is an option."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    if words and words[0] in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        raise InputError(f"unmask takeover wants a source and a new run folder; {USAGE}")
    found: list[Takeover] = []

    def find(source: str) -> Recipe:
        """The recipe that the source tells."""
        found.append(_find(Path(source), words))
        return found[0].recipe

    arguments = parse_with_recipe(Arguments, words, command="takeover", known=(), find=find)
    recipe = take_over(found[0], arguments.recipe, arguments.out)
    say(*replace(found[0], recipe=recipe).notes)
    images = "--data IMAGES" if recipe.encodes_each_step else "--cache CACHE"
    say(f"next: unmask train {arguments.out / RECIPE} {images} --out {arguments.out}")


def _find(source: Path, words: Sequence[str]) -> Takeover:
    """The training, with what must be told before its recipe is known."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--kind")
    for name in ("heads", "decoder-heads", "images"):
        early.add_argument(f"--{name}", type=int)
    try:
        told, _ = early.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None
    return find_training(
        source, told.kind, images=told.images, heads=told.heads, decoder_heads=told.decoder_heads
    )
