"""``unmask tokenizer``: train one on your images, or judge several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.commands.sources import Images, TrainingSide, open_images
from unmask.data.source import open_source
from unmask.data.split import Split
from unmask.errors import InputError, did_you_mean
from unmask.evaluate.tokenizer_comparison import (
    FILES,
    Comparison,
    TokenizerReport,
    compare_tokenizers,
)
from unmask.files.folders import check_file, check_folder, fates, visible
from unmask.machine.devices import resolve_device
from unmask.machine.processes import by_main, launched, part
from unmask.ranges import Length, Place, Ranged, Workers
from unmask.recipes.tokenizers import TOKENIZER_RECIPES, TokenizerRecipe, get_tokenizer_recipe
from unmask.show import Bar
from unmask.text import say
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.outline import tokenizer_outline
from unmask.train.run_folder import check_place
from unmask.train.tokenizer import train_tokenizer

HELP = """\
usage: unmask tokenizer train RECIPE --data IMAGES --out FOLDER
       unmask tokenizer eval NAME [NAME ...] --data IMAGES [--out FOLDER]

train  a small tokenizer on your images
eval   how well tokenizers give images back: one table and one picture of them all

Either with --help lists its options."""


@dataclass(frozen=True, kw_only=True)
class Train(Ranged):
    """Train a tokenizer; started again with the same words, it continues."""

    recipe: Annotated[TokenizerRecipe, tyro.conf.arg(name="")]
    """Recipe of the tokenizer; every field of it is an option."""
    out: Path
    """Run folder: checkpoints, samples (originals above reconstructions), log.jsonl, model/."""
    data: Images
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist."""
    split: TrainingSide = "train"
    """Images that are trained on: the training side, or all of them."""
    workers: Workers = 0
    """Processes that read images."""
    dry_run: bool = False
    """Only say what the run would be: nothing is trained or written."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""


@dataclass(frozen=True, kw_only=True)
class Eval(Ranged):
    """Send the same images through tokenizers and back, and score what returns.

    PSNR and SSIM compare pixels; LPIPS and the Fréchet distances, what networks see in them. FD is
    of EfficientNet features, which need no download; LPIPS takes --lpips, rFID takes --inception.
    For codes the table adds how many are in use, for latents their spread. Several processes share
    the images: torchrun --nproc-per-node 8 -m unmask.cli tokenizer eval ...
    """

    names: Annotated[tuple[Place, ...], tyro.conf.Positional, Length(0, 1000)] = ()
    """Tokenizer runs or folders, shipped or published names, downloaded files."""
    data: Images
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist."""
    split: Split = "val"
    """Side of the images; images that a tokenizer was trained on flatter it."""
    options: Annotated[Comparison, tyro.conf.arg(name="")] = field(default_factory=Comparison)
    """Number of images that tokenizers are compared on, and what compares them."""
    out: Path | None = None
    """Folder for table.md, scores.json and pictures.png: originals above reconstructions."""


def train(words: Sequence[str]) -> None:
    """Train, and say what comes next."""
    arguments = parse_with_recipe(
        Train, words, command="tokenizer train", known=TOKENIZER_RECIPES, find=get_tokenizer_recipe
    )
    speaks = launched().is_main_process
    source = open_images(arguments.data, arguments.split, speaks=speaks, counted=False)
    by_main(lambda: check_place(arguments.out))
    if speaks:
        say(*tokenizer_outline(arguments.recipe, source, arguments.out))
    if arguments.dry_run:
        return part()
    result = train_tokenizer(
        arguments.recipe,
        source,
        out=arguments.out,
        num_workers=arguments.workers,
        from_scratch=arguments.from_scratch,
    )
    if speaks:
        say(
            f"{result.line}; next: "
            f"unmask train RECIPE --data {arguments.data} --tokenizer {arguments.out} --out FOLDER"
        )
    part()


def evaluate(words: Sequence[str]) -> None:
    """Compare, print the table, and write it with a picture if there is a folder for them."""
    arguments = parse(Eval, words, prog="unmask tokenizer eval")
    if not arguments.names:
        raise InputError("unmask tokenizer eval wants the name of a tokenizer, or of several")
    if arguments.out is not None:
        check_folder(arguments.out, "results", may_hold=lambda: True)
        for name in FILES:
            check_file(arguments.out / name, "results")
    options, source = arguments.options, open_source(arguments.data, split=arguments.split)
    device = resolve_device(options.device)
    tokenizers = {name: load_tokenizer(name).to(device) for name in arguments.names}
    speaks, total = launched().is_main_process, len(tokenizers) * min(options.count, len(source))
    with Bar("there and back", total, shown=speaks) as bar:
        report = compare_tokenizers(
            tokenizers, source, options=options, on_images=bar.advance, together=True
        )
    if speaks:
        _tell(report, arguments.out)
    part()


def _tell(report: TokenizerReport, out: Path | None) -> None:
    """Print the table, and write it with a picture if there is a folder for them."""
    report.table().turned().draw()
    if out is not None:
        before = visible(out)
        report.write(out)
        say(*fates(before, FILES))


def main(words: Sequence[str]) -> None:
    """Run the command."""
    commands = {"train": train, "eval": evaluate}
    if words and words[0] in ("-h", "--help"):
        print(HELP)
        raise SystemExit(0)
    if not words or words[0] not in commands:
        given = words[0] if words else ""
        known = did_you_mean(given, commands)
        raise InputError(f"unmask tokenizer wants train or eval first, not {given!r}; {known}")
    commands[words[0]](words[1:])
