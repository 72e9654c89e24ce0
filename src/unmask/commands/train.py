"""``unmask train``: a masked image generator from your images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.cache import print_skipped
from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.commands.sources import Images, TrainingSide, open_images
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import Check, LatentCache
from unmask.data.reader import Reader
from unmask.data.source import open_source
from unmask.errors import InputError
from unmask.files.folders import beside
from unmask.machine.compute import Precision
from unmask.machine.processes import by_main, launched, part, say_once
from unmask.memory import check_fits
from unmask.ranges import Ranged, Workers
from unmask.recipes import RECIPES, get
from unmask.recipes.recipe import Recipe
from unmask.text import say
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.train.generator import (
    AnyCache,
    check_image_size,
    check_sizes,
    check_source,
    for_overfitting,
    make_task,
)
from unmask.train.live_images import live_images
from unmask.train.outline import Examples, outline
from unmask.train.overfit import at_constant_rate
from unmask.train.run_folder import RECIPE, check_place


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Train a masked image generator; started again with the same words, it continues.

    Several processes: torchrun --nproc-per-node 8 -m unmask.cli train RECIPE ...
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """Recipe to train; every field of it is an option."""
    out: Path
    """Run folder: checkpoints, samples, log.jsonl, tracker, and at the end model/."""
    data: Images | None = None
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist. They are
    encoded once, into OUT-cache, or in every step where the recipe crops at random."""
    split: TrainingSide = "train"
    """Images of --data that are trained on: the training side, or all, as some sources do."""
    cache: Path | None = None
    """Cache made by unmask cache build; --data is then only for --training.evaluate-every."""
    held_out_cache: Path | None = None
    """Cache of images that are not trained on (unmask cache build --split val), for eval/loss; None
    encodes held-out images of --data."""
    cache_folder: Path | None = None
    """Folder for the encoded images of --data, in place of OUT-cache."""
    rebuild_cache: bool = False
    """Encode the images of --data anew, even if a cache of them is there."""
    verify_cache: Check = "first-use"
    """Times at which files of the cache are compared with their hashes: once each, always, or
    never, which saves reading terabytes."""
    dry_run: bool = False
    """Only say what the run would be: nothing is encoded, trained or written."""
    overfit_one_batch: bool = False
    """Only check that the run can learn: fit one batch by heart, and say whether it did."""
    workers: Workers = 0
    """Processes that prepare batches; 0 prepares them in the process that trains."""
    compute: Precision | None = None
    """Arithmetic in which sheets and scores are sampled: float32, tf32, bf16 or fp16. None takes
    bf16 on a GPU that has it natively and else float32. --training.precision is of the steps."""
    compile: bool = False
    """Compile the objective first (torch.compile), which takes minutes; losses are the same up to
    rounding, and where there is dropout its random numbers are others."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse_with_recipe(Arguments, words, command="train", known=RECIPES, find=get)
    if arguments.overfit_one_batch:
        arguments = replace(arguments, recipe=for_overfitting(arguments.recipe))
    recipe, out, speaks = arguments.recipe, arguments.out, launched().is_main_process
    check_fits(recipe.network.build, "network")
    tokenizer = load_tokenizer(recipe.tokenizer).resized_for(recipe.network.space)
    held_out = _open_held_out(arguments)
    _check_options(arguments)
    source, cache = _opened(arguments, tokenizer)
    task = make_task(recipe, tokenizer)  # a base that does not fit shows before all is encoded
    if arguments.held_out_cache is not None:
        task = replace(task, held_out=_open_fitting(arguments, arguments.held_out_cache, tokenizer))
    if speaks:
        objective = task.objective if cache is None else task.objective_on(cache)
        examples = _examples(recipe, source, cache, tokenizer)
        fixed = at_constant_rate if arguments.overfit_one_batch else lambda training: training
        say(*outline(objective, examples, fixed(recipe.training), out))
    if arguments.dry_run:
        return part()
    if cache is None:
        assert source is not None, "there are images or a cache"
        cache = _encode(arguments, source, tokenizer)
    if not by_main((out / RECIPE).exists):  # what has begun goes on as it is
        check_image_size(recipe, cache, tokenizer)
    if arguments.overfit_one_batch:
        if not task.overfit(cache, out=out).works:
            raise SystemExit(1)
        return
    result = task.train(
        cache,
        out=out,
        held_out=held_out,
        num_workers=arguments.workers,
        from_scratch=arguments.from_scratch,
        compute=arguments.compute,
        compiled=arguments.compile,
    )
    if speaks:
        say(f"{result.line}; next: unmask sample {out} --out samples")
    part()


def layout_of(recipe: Recipe) -> CacheLayout:
    """What a cache for a recipe holds."""
    return CacheLayout(image_size=recipe.image_size, crop=recipe.cached_crop, flip=recipe.flip)


def _open_held_out(arguments: Arguments) -> Reader | None:
    """The images that scores during the training compare with, if there are to be scores."""
    if not arguments.recipe.training.evaluate_every or arguments.data is None:
        return None
    return open_source(arguments.data, split="val")


def _opened(
    arguments: Arguments, tokenizer: ImageTokenizer
) -> tuple[Reader | None, AnyCache | None]:
    """The images, unless there is a cache of them, and what batches are read from, if it is there.

    Raises:
        InputError: neither is given, or what is given does not fit the recipe.
    """
    if arguments.cache is not None:
        return None, _open_fitting(arguments, arguments.cache, tokenizer)
    recipe, source = arguments.recipe, _open_images(arguments, tokenizer)
    return source, live_images(recipe, source, tokenizer) if recipe.encodes_each_step else None


def _open_fitting(arguments: Arguments, folder: Path, tokenizer: ImageTokenizer) -> LatentCache:
    """A cache whose tokens and classes are the network's."""
    cache = _open_encoded(arguments, folder, tokenizer)
    check_sizes(arguments.recipe, tokenizer, grid=cache.grid, classes=len(cache.class_names))
    return cache


def _open_images(arguments: Arguments, tokenizer: ImageTokenizer) -> Reader:
    if arguments.data is None:
        raise InputError("give --data IMAGES, or --cache FOLDER made by: unmask cache build")
    speaks = launched().is_main_process
    source = open_images(arguments.data, arguments.split, speaks=speaks, counted=False)
    check_source(arguments.recipe, source, tokenizer)
    by_main(lambda: check_place(arguments.out))
    return source


def _examples(
    recipe: Recipe, source: Reader | None, cache: AnyCache | None, tokenizer: ImageTokenizer
) -> Examples:
    if source is not None:
        grid = tokenizer.grid(recipe.image_size)
        return Examples(
            len(source), len(source.class_names), grid, held_out=source.total - len(source)
        )
    assert cache is not None, "there are images or a cache"
    return Examples(len(cache), len(cache.class_names), cache.grid)


def _encode(arguments: Arguments, source: Reader, tokenizer: ImageTokenizer) -> LatentCache:
    # beside the run, not in it: a run folder is refused when it holds anything else at the start
    folder = arguments.cache_folder or beside(arguments.out, "-cache")
    state = launched()
    report = build_cache(
        tokenizer.to(state.device),
        source,
        out=folder,
        layout=layout_of(arguments.recipe),
        device=state.device,
        rebuild=arguments.rebuild_cache,
        together=True,
    )
    say_once(*report.notes)
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


def _open_encoded(arguments: Arguments, folder: Path, tokenizer: ImageTokenizer) -> LatentCache:
    return LatentCache.open(
        folder,
        tokenizer_identity=tokenizer.identity,
        check="never" if arguments.dry_run else arguments.verify_cache,
        tell=say_once,
    )
