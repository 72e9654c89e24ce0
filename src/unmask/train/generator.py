"""Training a masked image generator from cached codes or moments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn
from torch.utils.data import Dataset

from unmask.checkpoints.locate import EXPORT
from unmask.checkpoints.store import load_state
from unmask.data.batches import check_batch_size
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files.serial import MADE_FROM, to_dict
from unmask.image_size import checked_size, size_text, size_words
from unmask.machine.processes import launched
from unmask.memory import check_fits
from unmask.networks.network import Network
from unmask.networks.sizes import token_grid
from unmask.nn.model import MaskedModel, initialize
from unmask.objectives.contrastive import ContrastiveObjective
from unmask.objectives.masked import MaskedObjective
from unmask.objectives.substitution import SubstitutionObjective
from unmask.pipeline import Pipeline
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.tokenizer import weights_identity
from unmask.train.live_images import EncodeFirst, LiveImages
from unmask.train.loop import TrainResult, train
from unmask.train.masked_batches import MaskedBatches, SubstitutionBatches, TwoViewBatches
from unmask.train.overfit import Verdict, overfit_one_batch
from unmask.train.previews import OnlineScores, sample_sheet, sheet_previews, usual_size
from unmask.train.run import Preview

UNTOLD = {"heads": "heads a block", "decoder_heads": "decoder heads a block", "gelu": "as GELU"}
"""What of a network no weight's shape tells, and what it is."""
ADAPTER = "feedback."  # how names of the adapter's weights begin


def load_base(model: MaskedModel, recipe: Recipe, tokenizer: str) -> str:
    """Fill a network with the weights of ``recipe.base``.

    An adapter that only the new network has keeps its initial weights.

    Args:
        model: built from the recipe.
        recipe: with a base.
        tokenizer: identity of the tokenizer that encoded the data.

    Returns:
        Sixteen hexadecimal digits that stand for the base's weights.

    Raises:
        InputError: nothing is saved there, its sizes or heads are others, or so is its tokenizer.
    """
    assert recipe.base is not None, "there is no base"
    base = Pipeline.from_pretrained(recipe.base)
    ours, theirs = recipe.network, base.recipe.network
    for name, what in UNTOLD.items():
        here, there = getattr(ours, name, None), getattr(theirs, name, None)
        if None not in (here, there) and here != there:
            raise InputError(
                f"the base {recipe.base} has {there} {what} and network.{name}={here}; give "
                f"--network.{name.replace('_', '-')} {there}"
            )
    (rows, columns), grid = base.model.grid, model.grid
    if model.length == base.model.length and grid != (rows, columns):  # nor of this
        raise InputError(
            f"the base {recipe.base} has {rows}x{columns} tokens and this network "
            f"{grid[0]}x{grid[1]}; give --network.grid {rows} {columns}"
        )
    if base.has_tokenizer and base.tokenizer.identity != tokenizer:
        raise InputError(
            f"the base {recipe.base} was trained with another tokenizer than "
            f"{recipe.tokenizer!r}; give --tokenizer {Path(recipe.base) / 'tokenizer'}"
        )
    state = base.model.state_dict()
    new = {name: t for name, t in model.state_dict().items() if name.startswith(ADAPTER)}
    load_state(model, new | state, f"the weights of the base {recipe.base}")
    return weights_identity("", sorted(state.items()))


AnyCache = LatentCache | LiveImages


def check_fit(recipe: Recipe, cache: AnyCache, tokenizer: ImageTokenizer) -> None:
    """Refuse a network of other sizes than the data, naming the option to change.

    Raises:
        InputError: codes, tokens or classes differ.
    """
    check_sizes(recipe, tokenizer, grid=cache.grid, classes=len(cache.class_names))


def check_source(recipe: Recipe, source: ImageSource, tokenizer: ImageTokenizer) -> None:
    """Refuse images, not encoded yet, that do not fit the network or do not fill a batch.

    Raises:
        InputError: codes, tokens, classes or the batch do not fit.
    """
    grid = tokenizer.grid(recipe.image_size)
    check_sizes(recipe, tokenizer, grid=grid, classes=len(source.class_names))
    check_batch_size(len(source), recipe.training.batch_size)


def check_sizes(
    recipe: Recipe, tokenizer: ImageTokenizer, *, grid: tuple[int, int], classes: int
) -> None:
    """Refuse a network of other sizes than its data.

    Args:
        recipe: with the network.
        tokenizer: whose codes are learnt.
        grid: (h, w) tokens of the data.
        classes: N of the data, 0 without labels.

    Raises:
        InputError: naming the option to change.
    """
    network = recipe.network
    (what, wanted), found = network.space, tokenizer.space
    if found != (what, wanted):
        raise InputError(
            f"network.{what}={wanted} but the tokenizer has {found[1]} {found[0]}; "
            + (f"give --network.{what} {found[1]}" if found[0] == what else "use another tokenizer")
        )
    own = token_grid(network.length, network.grid)
    if own != grid:
        raise InputError(
            f"the network has {own[0]}x{own[1]} tokens but the images have {grid[0]}x{grid[1]}; "
            f"give {_grid_options(network, grid)}"
        )
    if network.classes > classes or (network.classes and network.classes != classes):
        if recipe.base is not None:  # whose table of classes has that size
            raise InputError(
                f"the base {recipe.base} knows {network.classes} classes and the data has "
                f"{classes}; give data with a folder for each class of the base, or train "
                "without it"
            )
        raise InputError(
            f"network.classes={network.classes} but the data has {classes} classes; give "
            f"--network.classes {classes}"
            + ("" if classes else " --training.label-dropout 0 --plan.guidance.scale 1")
        )


def check_image_size(recipe: Recipe, cache: AnyCache, tokenizer: ImageTokenizer) -> None:
    """Refuse a recipe of other images than those of its cache, which a model would be said to make.

    Raises:
        InputError: naming the size of the cache's images.
    """
    (rows, columns), stride = cache.grid, tokenizer.stride
    size = checked_size((rows * stride, columns * stride))
    if recipe.image_size != size:
        raise InputError(
            f"image_size={size_words(recipe.image_size)} but {rows}x{columns} tokens of "
            f"{stride} pixels are {size_text(size)}; give --image-size {size_words(size)}"
        )


def _grid_options(network: Network, grid: tuple[int, int]) -> str:
    """Options that give a network this grid."""
    rows, columns = grid
    length = f"--network.length {rows * columns}"
    square = rows == columns and network.grid is None
    return length if square else f"{length} --network.grid {rows} {columns}"


class Task(NamedTuple):
    """What a recipe asks of the training loop."""

    model: MaskedModel
    """The network, as it starts."""
    objective: nn.Module
    """What is minimised; ``objective.averaged`` is the part of the network that learns."""
    base: str | None
    """What stands for the weights that the network started from; None where it started anew."""


def make_task(recipe: Recipe, tokenizer: ImageTokenizer) -> Task:
    """Network and objective of a recipe; initial weights are a function of the training seed.

    Args:
        recipe: what to train.
        tokenizer: that encoded the data.

    Raises:
        InputError: an adapter is to be trained and no base is named, or the base does not fit;
            the weights exceed the machine's memory.
    """
    check_fits(recipe.network.build, "network")
    model, smoothing = recipe.network.build(), recipe.training.label_smoothing
    initialize(model, keyed_generator(recipe.training.seed, "weights"))
    base = load_base(model, recipe, tokenizer.identity) if recipe.base else None
    if recipe.contrastive is not None:
        extra: nn.Module = ContrastiveObjective(
            model,
            recipe.contrastive,
            generator=keyed_generator(recipe.training.seed, "projection"),
            batch_size=recipe.training.batch_size,
            label_smoothing=smoothing,
        )
        return Task(model, extra, base)
    if recipe.substitution is None:
        return Task(model, MaskedObjective(model, label_smoothing=smoothing), base)
    if base is None:
        raise InputError(
            f"{recipe.name} trains the adapter of a network that is trained already: give --base "
            "MODEL, a folder of unmask train or unmask convert"
        )
    objective = SubstitutionObjective(model, recipe.substitution, label_smoothing=smoothing)
    return Task(model, objective, base)


def make_batches(recipe: Recipe, cache: AnyCache) -> Dataset:
    """This process's batches of a recipe."""
    state = launched()
    kind = MaskedBatches if recipe.contrastive is None else TwoViewBatches
    batches = kind(
        cache,
        recipe.masking,
        training=recipe.training,
        classes=recipe.network.classes,
        rank=state.process_index,
        world=state.num_processes,
    )
    if recipe.substitution is None or isinstance(batches, TwoViewBatches):
        return batches
    return SubstitutionBatches(batches, recipe.substitution)


def objective_of(task: Task, cache: AnyCache, tokenizer: ImageTokenizer) -> nn.Module:
    """What the loop minimises: the task's objective, behind the tokenizer if it has to encode."""
    if not isinstance(cache, LiveImages):
        return task.objective
    return EncodeFirst(task.objective, tokenizer)


def train_generator(
    recipe: Recipe,
    cache: AnyCache,
    tokenizer: ImageTokenizer,
    *,
    out: Path,
    held_out: ImageSource | None = None,
    num_workers: int = 0,
    from_scratch: bool = False,
    task: Task | None = None,
) -> TrainResult:
    """Train, continue or just finish a run, and export ``out/model`` for sampling.

    Args:
        recipe: what to train and how.
        cache: encoded images, or images that are encoded in every step.
        tokenizer: that encoded them; draws the previews and goes into the export.
        out: the run folder.
        held_out: real images that scores during the training compare with.
        num_workers: processes that prepare batches.
        from_scratch: see :func:`unmask.train.loop.train`.
        task: what :func:`make_task` gives for this recipe; None makes it here.

    Raises:
        InputError: see :func:`check_fit` and :func:`unmask.train.loop.train`; scores wanted and
            nothing to compare with.
    """
    check_fit(recipe, cache, tokenizer)
    task = task or make_task(recipe, tokenizer)
    pipeline = Pipeline(recipe, task.model, tokenizer, cache.class_names)
    return train(
        objective_of(task, cache, tokenizer),
        make_batches(recipe, cache),
        settings=recipe.training,
        out=out,
        config=_config(recipe, cache, tokenizer, task),
        previews=[*_previews(pipeline, cache, held_out), _export(pipeline)],
        num_workers=num_workers,
        from_scratch=from_scratch,
    )


def _export(pipeline: Pipeline) -> Preview:
    """Writes the averaged (or else raw) weights of the last step as the run's model."""
    return Preview(
        lambda folder, step, averaged: pipeline.save_pretrained(folder),
        raw=False,
        missing=lambda out, step: True,
        place=EXPORT,
    )


def for_overfitting(recipe: Recipe) -> Recipe:
    """The recipe without what keeps a network from learning a batch by heart."""
    return replace(recipe, training=replace(recipe.training, preview_every=0, label_smoothing=0.0))


def overfit_generator(
    recipe: Recipe,
    cache: AnyCache,
    tokenizer: ImageTokenizer,
    *,
    out: Path,
    task: Task | None = None,
) -> Verdict:
    """Learn one batch by heart, the first thing to try when a run does not work.

    Args:
        recipe: what to train and how.
        cache: encoded images, or images that are encoded in every step.
        tokenizer: that encoded them.
        out: the run folder.
        task: of the recipe :func:`for_overfitting`; None makes it here.

    Raises:
        InputError: see :func:`train_generator`.
    """
    check_fit(recipe, cache, tokenizer)
    recipe = for_overfitting(recipe)
    task = task or make_task(recipe, tokenizer)
    return overfit_one_batch(
        objective_of(task, cache, tokenizer),
        make_batches(recipe, cache),
        settings=recipe.training,
        out=out,
        config=_config(recipe, cache, tokenizer, task),
    )


def _config(
    recipe: Recipe, cache: AnyCache, tokenizer: ImageTokenizer, task: Task
) -> dict[str, object]:
    """What must be the same where the run is continued."""
    data = (cache if isinstance(cache, LiveImages) else cache.plan).source_hash
    made_from = {"tokenizer": tokenizer.identity, "data": data, "images": len(cache)}
    if isinstance(cache, LatentCache) and cache.index.content:
        made_from["content"] = cache.index.content
    if task.base is not None:
        made_from["base"] = task.base
    return {**to_dict(recipe), MADE_FROM: made_from}


def _previews(pipeline: Pipeline, cache: AnyCache, held_out: ImageSource | None) -> list[Preview]:
    """What the training looks at now and then."""
    training, usual = pipeline.recipe.training, usual_size(cache)
    looks = sheet_previews(sample_sheet(pipeline, usual=usual), training)
    if training.evaluate_every:
        if held_out is None:
            raise InputError(
                f"training.evaluate_every={training.evaluate_every} compares with real images, "
                "which a cache does not hold; give --data IMAGES too, or set it to 0"
            )
        scores = OnlineScores(pipeline, held_out, usual=usual)
        every, missing = training.evaluate_every, scores.missing
        looks.append(Preview(scores, every, raw=False, shared=True, missing=missing))
    return looks
