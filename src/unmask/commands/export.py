"""``unmask export``: a model or tokenizer of this library becomes files of its source project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unmask.commands.arguments import parse
from unmask.export import export, open_for
from unmask.files.folders import check_folder
from unmask.ranges import Place, Ranged
from unmask.text import say

Generators = Literal["maskgit-pytorch", "unlockmgm", "mage", "mar", "emigm"]
VQ = Literal["maskgit-vqgan", "mage-vqgan", "taming-vqgan", "llamagen-vq", "amused-vq"]
To = Literal[Generators, VQ, "kl16", "dc-ae"]


@dataclass(frozen=True)
class Arguments(Ranged):
    """Write a model's weights in the files of another project, whose code can then load them.

    The way back of unmask convert. It is strict: every key that the project's code expects is
    written with its shape, and a model that this code cannot build is refused.
    """

    model: Annotated[Place, tyro.conf.Positional]
    """A model folder, run or shipped name, or a tokenizer. Where the project stores tokenizers, a
    model's tokenizer is written."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the files, new or empty."""
    to: To
    """Project whose files are written. Generators: maskgit-pytorch, unlockmgm (MaskGIT and
    self-guidance), mage (with its tokenizer), mar, emigm. Tokenizers: maskgit-vqgan (TiTok,
    UnlockMGM), mage-vqgan, taming-vqgan, llamagen-vq, amused-vq, kl16 (MAR, eMIGM), dc-ae
    (diffusers)."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask export")
    check_folder(arguments.out, "export")
    made = export(open_for(arguments.model, arguments.to), arguments.out, arguments.to)
    say(f"{arguments.to}: {made.tensors} tensors in {', '.join(made.files)}")
    if made.untold:
        told = ", ".join(f"{name}={value}" for name, value in made.untold.items())
        say(f"not in these files, to be given to the project's code: {told}")
