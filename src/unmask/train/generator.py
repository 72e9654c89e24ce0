"""Training a masked image generator from cached codes or moments."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from unmask.checkpoints.locate import EXPORT
from unmask.data.batches import check_batch_size
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files.serial import MADE_FROM, to_dict
from unmask.image_size import checked_size, size_text, size_words
from unmask.machine.compute import Precision, compiler_failures
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
from unmask.recipes.training import Training, in_steps
from unmask.text import say
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.train.base import load_base
from unmask.train.held_out import HeldOutImages, HeldOutLoss, held_out_training
from unmask.train.live_images import EncodeFirst, LiveImages
from unmask.train.loop import TrainResult, train
from unmask.train.masked_batches import (
    MaskedBatches,
    SubstitutionBatches,
    TokenCache,
    TwoViewBatches,
)
from unmask.train.overfit import Verdict, overfit_one_batch
from unmask.train.previews import (
    OnlineScores,
    sample_sheet,
    sheet_previews,
    still_transform,
    usual_size,
)
from unmask.train.run import Preview

AnyCache = LatentCache | LiveImages


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
        if recipe.base is not None and recipe.substitution is not None:  # which stays as it is
            raise InputError(
                f"the base {recipe.base} knows {network.classes} classes and the data has "
                f"{classes}; give data with a folder for each class of the base, or another base"
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


@dataclass(frozen=True, kw_only=True)
class Task:
    """A recipe with its network, ready to be trained; :func:`make_task` makes one.

    Args:
        recipe: What is trained and how.
        tokenizer: Tokenizer of the data; it draws the previews and goes into the exported model.
        model: Network with its initial weights.
        objective: What is minimised; ``objective.averaged`` is the part of the network that learns.
        base: What stands for the weights that the network started from; None where it started anew.
        held_out: Cache of images that the loss is also taken on; None encodes those that are held
            out.
    """

    recipe: Recipe
    tokenizer: ImageTokenizer
    model: MaskedModel
    objective: nn.Module
    base: str | None
    held_out: LatentCache | None = None

    def objective_on(self, cache: AnyCache) -> nn.Module:
        """What the loop minimises: the objective, behind the tokenizer if it has to encode."""
        if not isinstance(cache, LiveImages):
            return self.objective
        return EncodeFirst(self.objective, self.tokenizer)

    def batches(self, cache: AnyCache, whole: Training | None = None) -> Dataset:
        """This process's part of every batch; by other training options, whole batches."""
        if whole is not None:
            return batches_of(replace(self.recipe, training=whole), cache)
        state = launched()
        rank, world = state.process_index, state.num_processes
        return batches_of(self.recipe, cache, rank=rank, world=world)

    def train(
        self,
        cache: AnyCache,
        *,
        out: Path,
        held_out: ImageSource | None = None,
        num_workers: int = 0,
        from_scratch: bool = False,
        compute: Precision | None = None,
        compiled: bool = False,
    ) -> TrainResult:
        """Train, continue or just finish a run, and export ``out/model`` for sampling.

        Args:
            cache: encoded images, or images that are encoded in every step.
            out: the run folder.
            held_out: real images that scores during the training compare with.
            num_workers: processes that prepare batches.
            from_scratch: see :func:`unmask.train.loop.train`.
            compute: arithmetic in which sheets and scores are sampled, see
                :class:`unmask.generation.Options`.
            compiled: whether ``torch.compile`` makes the objective's operations first.

        Raises:
            InputError: see :func:`check_sizes` and :func:`unmask.train.loop.train`; scores wanted
                and nothing to compare with.
        """
        task = self._on(cache)
        pipeline = Pipeline(task.recipe, task.model, task.tokenizer, cache.class_names)
        pipeline.compute = compute
        if compiled:  # its forward alone: names of weights stay, and autocast is around it
            task.objective.forward = torch.compile(task.objective.forward)
        with compiler_failures() if compiled else nullcontext():
            return train(
                task.objective_on(cache),
                task.batches(cache),
                settings=task.recipe.training,
                out=out,
                config=task._config(cache),
                previews=[
                    *_previews(pipeline, cache, held_out),
                    *task._held_out_loss(pipeline, held_out),
                    _export(pipeline),
                ],
                num_workers=num_workers,
                from_scratch=from_scratch,
            )

    def _held_out_loss(self, pipeline: Pipeline, images: ImageSource | None) -> list[Preview]:
        """The loss on held-out images of the same classes, as often as scores are taken.

        Not of the contrastive objective, whose loss depends on the batch and on two views.
        """
        training, classes = self.recipe.training, self.recipe.network.classes
        if not training.evaluate_every or self.recipe.contrastive is not None:
            return []
        cache: AnyCache | None = self.held_out
        if cache is None and images is not None:
            cache = HeldOutImages(images, still_transform(pipeline), self.tokenizer)
        if cache is None or classes not in (0, len(cache.class_names)):
            if launched().is_main_process:
                say(
                    f"no eval/loss: no held-out images of {classes} classes; give them with --data "
                    "or encoded (--held-out-cache)"
                )
            return []
        settings, count = held_out_training(training, len(cache))
        batches = self.batches(cache, whole=settings)
        look = HeldOutLoss(self.objective, batches, training, count=count)
        return [Preview(look, training.evaluate_every, shared=True, missing=look.missing)]

    def overfit(self, cache: AnyCache, *, out: Path) -> Verdict:
        """Learn one batch by heart, the first thing to try when a run does not work.

        Args:
            cache: encoded images, or images that are encoded in every step.
            out: the run folder.

        Raises:
            InputError: see :meth:`train`.
        """
        task = self._on(cache)
        return overfit_one_batch(
            task.objective_on(cache),
            task.batches(cache),
            settings=task.recipe.training,
            out=out,
            config=task._config(cache),
        )

    def _on(self, cache: AnyCache) -> Task:
        """This task, which fits the images, with epochs of them counted in steps."""
        classes = len(cache.class_names)
        check_sizes(self.recipe, self.tokenizer, grid=cache.grid, classes=classes)
        training = in_steps(self.recipe.training, len(cache))
        return replace(self, recipe=replace(self.recipe, training=training))

    def _config(self, cache: AnyCache) -> dict[str, object]:
        """What must be the same where the run is continued."""
        data = (cache if isinstance(cache, LiveImages) else cache.plan).source_hash
        made_from = {"tokenizer": self.tokenizer.identity, "data": data, "images": len(cache)}
        if isinstance(cache, LatentCache) and cache.index.content:
            made_from["content"] = cache.index.content
        if self.base is not None:
            made_from["base"] = self.base
        return {**to_dict(self.recipe), MADE_FROM: made_from}


def make_task(recipe: Recipe, tokenizer: ImageTokenizer) -> Task:
    """Network and objective of a recipe; initial weights are a function of the training seed.

    Args:
        recipe: what to train.
        tokenizer: that encoded the data.

    Raises:
        InputError: an adapter is to be trained and no base is named, or the base does not fit;
            the weights exceed the machine's memory.
    """
    if recipe.substitution is not None and recipe.base is None:
        raise InputError(
            f"{recipe.name} trains the adapter of a network that is trained already: give --base "
            "MODEL, a folder of unmask train or unmask convert"
        )
    check_fits(recipe.network.build, "network")
    model = recipe.network.build()
    initialize(model, keyed_generator(recipe.training.seed, "weights"))
    base = load_base(model, recipe, tokenizer.identity) if recipe.base else None
    objective = objective_of(recipe, model)
    return Task(recipe=recipe, tokenizer=tokenizer, model=model, objective=objective, base=base)


def batches_of(recipe: Recipe, cache: TokenCache, *, rank: int = 0, world: int = 1) -> Dataset:
    """What one process of ``world`` learns from, step by step."""
    kind = MaskedBatches if recipe.contrastive is None else TwoViewBatches
    training, classes = recipe.training, recipe.network.classes
    batches = kind(
        cache, recipe.masking, training=training, classes=classes, rank=rank, world=world
    )
    if recipe.substitution is None or isinstance(batches, TwoViewBatches):
        return batches
    return SubstitutionBatches(batches, recipe.substitution)


def objective_of(recipe: Recipe, model: MaskedModel) -> nn.Module:
    """What a recipe minimises, around its network."""
    training = recipe.training
    smoothing = training.label_smoothing
    if recipe.contrastive is not None:
        return ContrastiveObjective(
            model,
            recipe.contrastive,
            generator=keyed_generator(training.seed, "projection"),
            batch_size=training.batch_size,
            label_smoothing=smoothing,
        )
    if recipe.substitution is not None:
        return SubstitutionObjective(model, recipe.substitution, label_smoothing=smoothing)
    return MaskedObjective(model, label_smoothing=smoothing)


def for_overfitting(recipe: Recipe) -> Recipe:
    """The recipe without what keeps a network from learning a batch by heart."""
    return replace(recipe, training=replace(recipe.training, preview_every=0, label_smoothing=0.0))


def _previews(pipeline: Pipeline, cache: AnyCache, held_out: ImageSource | None) -> list[Preview]:
    """What the training looks at now and then."""
    training, usual = pipeline.recipe.training, usual_size(cache)
    looks = sheet_previews(sample_sheet(pipeline, usual=usual), training)
    if training.evaluate_every:
        if held_out is None and training.evaluate_reference is None:
            raise InputError(
                f"training.evaluate_every={training.evaluate_every} compares with real images, "
                "which a cache does not hold; give --data IMAGES too, or statistics of theirs "
                "(--training.evaluate-reference FILE), or set it to 0"
            )
        scores = OnlineScores(pipeline, held_out, usual=usual)
        every, missing = training.evaluate_every, scores.missing
        looks.append(Preview(scores, every, raw=False, shared=True, missing=missing))
    return looks


def _export(pipeline: Pipeline) -> Preview:
    """Writes the averaged (or else raw) weights of the last step as the run's model."""
    return Preview(
        lambda folder, step, averaged: pipeline.save_pretrained(folder),
        raw=False,
        missing=lambda out, step: True,
        place=EXPORT,
    )
