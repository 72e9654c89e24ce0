"""``unmask train``: a masked image generator from your images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.cache import print_skipped
from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.commands.sources import TrainingSide, open_images
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import Check, LatentCache
from unmask.data.source import open_source
from unmask.errors import InputError
from unmask.files.folders import beside
from unmask.machine.processes import launched, part
from unmask.memory import check_fits
from unmask.ranges import Place, Ranged, Workers
from unmask.recipes import RECIPES, get
from unmask.recipes.recipe import Recipe
from unmask.text import say
from unmask.tokenizers.folder import AnyTokenizer, load_any_tokenizer
from unmask.tokenizers.latent_tokenizer import grouped_for
from unmask.train.generator import (
    AnyCache,
    check_fit,
    check_image_size,
    check_source,
    overfit_generator,
    train_generator,
)
from unmask.train.live_images import live_images
from unmask.train.run_folder import RECIPE, check_place


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Train a masked image generator; started again with the same words, it continues.

    Several processes: accelerate launch -m unmask.cli train RECIPE ...
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """What to train; every field is an option."""
    out: Path
    """Run folder: checkpoints, samples, log.jsonl, tracker, and at the end model/."""
    data: Place | None = None
    """Images: a folder, WebDataset tars, IDX files, Parquet, or fashion-mnist; encoded once,
    into OUT-cache, or in every step where the recipe crops at random."""
    split: TrainingSide = "train"
    """Which of the images are trained on: the training side, or all, as some sources do."""
    cache: Path | None = None
    """A cache made by unmask cache build; --data is then only for --training.evaluate-every."""
    cache_folder: Path | None = None
    """Where the images of --data are encoded, in place of OUT-cache."""
    rebuild_cache: bool = False
    """Encode the images of --data anew, in the place of a cache that is there."""
    verify_cache: Check = "first-use"
    """When to compare the cache's files with their hashes: once for each, always, or never, which
    saves reading terabytes."""
    overfit_one_batch: bool = False
    """Only check that the run can learn: fit one batch by heart and say whether it did."""
    workers: Workers = 0
    """Processes that prepare batches."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse_with_recipe(Arguments, words, command="train", known=RECIPES, find=get)
    check_fits(arguments.recipe.network.build, "network")
    tokenizer = grouped_for(
        load_any_tokenizer(arguments.recipe.tokenizer),
        getattr(arguments.recipe.network, "channels", None),
    )
    held_out = None
    if arguments.recipe.training.evaluate_every and arguments.data is not None:
        held_out = open_source(arguments.data, split="val")
    cache = _open_cache(arguments, tokenizer)
    check_fit(arguments.recipe, cache, tokenizer)
    if not (arguments.out / RECIPE).exists():  # what has begun goes on as it is
        check_image_size(arguments.recipe, cache, tokenizer)
    if arguments.overfit_one_batch:
        verdict = overfit_generator(arguments.recipe, cache, tokenizer, out=arguments.out)
        if not verdict.works:
            raise SystemExit(1)
        return
    result = train_generator(
        arguments.recipe,
        cache,
        tokenizer,
        out=arguments.out,
        held_out=held_out,
        num_workers=arguments.workers,
        from_scratch=arguments.from_scratch,
    )
    if launched().is_main_process:
        say(f"{result.told}; next: unmask sample {arguments.out} --out samples")
    part()


def layout_of(recipe: Recipe) -> CacheLayout:
    """What a cache for a recipe holds."""
    return CacheLayout(image_size=recipe.image_size, crop=recipe.cached_crop, flip=recipe.flip)


def _open_cache(arguments: Arguments, tokenizer: AnyTokenizer) -> AnyCache:
    _check_options(arguments)
    if arguments.cache is not None:
        return _open_encoded(arguments, arguments.cache, tokenizer)
    if arguments.data is None:
        raise InputError("give --data IMAGES, or --cache FOLDER made by: unmask cache build")
    source = open_images(arguments.data, arguments.split, speaks=launched().is_main_process)
    check_source(arguments.recipe, source, tokenizer)
    check_place(arguments.out)
    if arguments.recipe.encodes_each_step:
        return live_images(arguments.recipe, source, tokenizer)
    # beside the run, not in it: a run folder is refused when it holds anything else at the start
    folder = arguments.cache_folder or beside(arguments.out, "-cache")
    state = launched()
    with state.main_process_first():
        report = build_cache(
            tokenizer.to(state.device),
            source,
            out=folder,
            layout=layout_of(arguments.recipe),
            device=state.device,
            progress=state.is_main_process,
            rebuild=arguments.rebuild_cache and state.is_main_process,
            compared=state.is_local_main_process,
        )
    if state.is_main_process:
        say(*report.notes)
        print_skipped(report)
    return _open_encoded(arguments, folder, tokenizer)


def _check_options(arguments: Arguments) -> None:
    """Options of the cache of ``--data`` beside none of it.

    Raises:
        InputError: naming the option.
    """
    given = {
        "--cache-folder": arguments.cache_folder is not None,
        "--rebuild-cache": arguments.rebuild_cache,
    }
    if arguments.cache is None and not arguments.recipe.encodes_each_step:
        return
    for option, is_given in given.items():
        if is_given:
            what = "--cache is given" if arguments.cache else "the recipe encodes in every step"
            raise InputError(f"{option} is for encoding --data once, and {what}; leave it out")


def _open_encoded(arguments: Arguments, folder: Path, tokenizer: AnyTokenizer) -> LatentCache:
    return LatentCache.open(
        folder,
        tokenizer_identity=tokenizer.identity,
        check=arguments.verify_cache,
        tell=say if launched().is_main_process else lambda line: None,
    )
