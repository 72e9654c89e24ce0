"""``unmask convert``: a published checkpoint becomes a folder of this library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.convert import convert
from unmask.errors import InputError
from unmask.networks.sizes import ClassCount, Grid, Heads
from unmask.pipeline import check_place
from unmask.projects.foreign import Kind, holds_network
from unmask.ranges import Place, Ranged
from unmask.text import say
from unmask.tokenizers.folder import FORMAT as TOKENIZER_FORMAT
from unmask.tokenizers.folder import save_tokenizer
from unmask.tokenizers.published import holds_tokenizer, load_published, weights_file

# What is said about a source beside its kind, where there is anything.
SAID = {
    "config": "settings from",
    "taken": "taken from the entry",
    "empty": "an average without weights, passed over",
    "aside": "left aside, other weights in the file",
    "unknown": "left aside, of no part of the network",
}


@dataclass(frozen=True)
class Arguments(Ranged):
    """Turn a published checkpoint into a folder of this library.

    A model of maskgit-pytorch, UnlockMGM, the original MaskGIT, MAGE, MAR or eMIGM becomes a model
    folder; a tokenizer of MaskGIT, MAGE, taming-transformers, LlamaGen, aMUSEd, MAR
    (KL-16) or DC-AE becomes a tokenizer folder. The source is only read. What it is, is seen from
    its keys.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A maskgit-pytorch run, checkpoint folder or file; an UnlockMGM folder; a flax file; a MAGE,
    MAR or eMIGM file; a tokenizer's file or folder, or the name of a published one."""
    out: Annotated[Path, tyro.conf.Positional]
    """New folder, or an earlier conversion to replace."""
    kind: Kind | None = None
    """Project that the source must be of; None recognises it. An eMIGM with a mask token of its own
    must be named, since its files look like MAR's."""
    heads: Heads | None = None
    """Attention heads a block, which no shape tells; to be given where a maskgit-pytorch run has
    lost its ``config-*.yaml``, or a MAGE (its encoder), MAR or eMIGM is of no published width. None
    takes the source's or the published number."""
    decoder_heads: Heads | None = None
    """Attention heads a block in the decoder of a MAGE, MAR or eMIGM. None means the published
    number, or for MAR and eMIGM that of --heads."""
    classes: ClassCount = 1000
    """Number of classes of a flax file, whose shapes do not tell it."""
    grid: Grid | None = None
    """Rows and columns of tokens of an image, which no file tells. None means a square."""
    tokenizer: Place | None = None
    """Tokenizer to put into the model: a folder, run, shipped or published name, or downloaded
    file. None takes the source's own (MAGE); without one the model makes tokens, no pixels."""
    half: bool = False
    """Store weights in float16, half the size."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask convert")
    file = weights_file(arguments.source)
    if (file is None or not holds_network(file)) and holds_tokenizer(arguments.source):
        _convert_tokenizer(arguments)
    else:
        _convert_model(arguments)


def _convert_tokenizer(arguments: Arguments) -> None:
    for option in ("kind", "heads", "decoder_heads", "grid", "tokenizer"):
        if getattr(arguments, option) is not None:
            word = option.replace("_", "-")
            raise InputError(f"{arguments.source} is a tokenizer: leave out --{word}")
    check_place(arguments.out, TOKENIZER_FORMAT)
    tokenizer = load_published(arguments.source, half=arguments.half)
    save_tokenizer(tokenizer, arguments.out, half=arguments.half)
    (kind, count), size = tokenizer.space, sum(p.numel() for p in tokenizer.parameters())
    say(f"tokenizer of {arguments.source}: {size:,} parameters, {count} {kind}")
    say(f"next: give --tokenizer {arguments.out} to unmask convert, cache or train")


def _convert_model(arguments: Arguments) -> None:
    check_place(arguments.out)
    pipeline, details = convert(
        arguments.source,
        arguments.kind,
        tokenizer=arguments.tokenizer,
        half=arguments.half,
        heads=arguments.heads,
        decoder_heads=arguments.decoder_heads,
        classes=arguments.classes,
        grid=arguments.grid,
    )
    pipeline.save_pretrained(arguments.out, half=arguments.half)
    size = sum(p.numel() for p in pipeline.model.parameters())
    say(f"{details['kind']} weights of {details['file']}: {size:,} parameters")
    for key, what in SAID.items():
        if key in details:
            say(f"{what}: {details[key]}")
    say(f"recipe {pipeline.recipe.name}, tokenizer {pipeline.recipe.tokenizer}")
    form = "" if pipeline.has_tokenizer else " --format tokens (no tokenizer was given)"
    say(f"next: unmask sample {arguments.out} --out samples{form}")
