"""``unmask convert``: a published checkpoint becomes a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from unmask.checkpoints.foreign import Kind
from unmask.commands.arguments import parse
from unmask.convert import convert
from unmask.pipeline import check_place


@dataclass(frozen=True)
class Arguments:
    """Turn a checkpoint of maskgit-pytorch, UnlockMGM or the original MaskGIT into a model folder.

    The source is only read. What it is, is seen from its keys.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A maskgit-pytorch run, checkpoint folder or file; an UnlockMGM folder; or a flax file."""
    out: Annotated[Path, tyro.conf.Positional]
    """New folder for the model, or an earlier conversion to replace."""
    kind: Kind | None = None
    """Refuse anything but this."""
    heads: int | None = None
    """Attention heads, where a maskgit-pytorch run has lost its config-*.yaml."""
    classes: int = 1000
    """Classes of a flax file, which its shapes do not tell."""
    tokenizer: str | None = None
    """Folder, run or shipped name of the tokenizer to put in; without one: tokens, no pixels."""
    half: bool = False
    """Store float16, half the size."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask convert")
    check_place(arguments.out)
    pipeline, details = convert(
        arguments.source,
        arguments.kind,
        heads=arguments.heads,
        classes=arguments.classes,
        tokenizer=arguments.tokenizer,
    )
    pipeline.save_pretrained(arguments.out, half=arguments.half)
    size = sum(p.numel() for p in pipeline.model.parameters())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{details['kind']} weights of {details['file']}: {size:,} parameters")
    console.print(f"recipe {pipeline.recipe.name}, tokenizer {pipeline.recipe.tokenizer}")
    form = "" if pipeline.has_tokenizer else " --format tokens (no tokenizer was given)"
    console.print(f"next: unmask sample {arguments.out} --out samples{form}")
