"""The training of a source project as a run that ``unmask train`` goes on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from accelerate import Accelerator
from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import check_state, load_state, single
from unmask.convert import matching_recipe
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.serial import to_dict
from unmask.guidance import Guidance
from unmask.memory import check_fits
from unmask.networks.maskgit import CodeNetwork
from unmask.nn.model import MaskedModel
from unmask.pipeline import Pipeline
from unmask.projects.foreign import Foreign, Kind, recognise, translated
from unmask.projects.project import Checkpoint, Project, Stated, Tensors
from unmask.projects.training_state import Moments, TrainingState, expected, moments, read_training
from unmask.recipes.maskgit_pytorch_run import with_settings
from unmask.recipes.recipe import Recipe
from unmask.recipes.script_arguments import images_a_step, with_arguments
from unmask.recipes.training import IMAGENET, Ema, in_steps
from unmask.recipes.unlockmgm_run import with_configuration
from unmask.tokenizers.folder import save_tokenizer
from unmask.tokenizers.published import tokenizer_of
from unmask.train import run_folder
from unmask.train.generator import objective_of
from unmask.train.run import Run

SKIPPED = 0.02  # largest share of steps that a loss scaler is believed to have left out
UNSAID = ("plans", "results", "summary")  # of a recipe's changes
BASE, TOKENIZER = "base", "tokenizer"  # folders in the run


@dataclass(frozen=True)
class Takeover:
    """A source's training, read and understood; :func:`find_training` makes one.

    Args:
        recipe: What it trains and how, as far as its files tell.
        named: The recipe that this began as, before the source's settings.
        step: Optimiser steps done.
        epoch: Steps of an epoch, where the source counts those; else None.
        state: What was read.
        moments: What the optimiser remembers.
        project: Whose it is.
        foreign: Raw weights by our names, and what lies beside them.
    """

    recipe: Recipe
    named: Recipe
    step: int
    epoch: int | None
    state: TrainingState
    moments: Moments
    project: Project
    foreign: Foreign

    @property
    def notes(self) -> list[str]:
        """Lines for a person: what was taken, what the recipe follows, what nobody can know."""
        state = self.state
        parts = f"weights, moments of {len(state.optimizer['state'])} parameters"
        parts += ", their average" if state.averages is not None else ""
        parts += ", loss scale" if state.scaler else ""
        parts += ", tokenizer" if self.foreign.tokenizer else ""
        before = dict(run_folder.flat_config(to_dict(self.named)))
        after = {n: v for n, v in run_folder.flat_config(to_dict(self.recipe)) if n not in UNSAID}
        told = [f"{n}={v}" for n, v in after.items() if before.get(n) != v]
        epochs = f", {state.epochs} epochs of {self.epoch:,} steps" if self.epoch else ""
        return [
            f"{self.project.name} training of {state.file}: step {self.step:,}{epochs}",
            f"taken: {parts}",
            f"recipe {self.named.name} with what {state.settings_file or 'the optimiser'} says: "
            + (", ".join(told) or "nothing else"),
            *self._assumed(),
        ]

    def _assumed(self) -> Iterator[str]:
        name, training = self.project.name, self.recipe.training
        if not self.state.settings:
            yield f"assumed: everything else is as in {self.named.name}, as its settings are lost"
        if self.epoch and self.epoch == IMAGENET // training.batch_size:
            yield f"assumed: {IMAGENET:,} training images (ImageNet), or give --images"
        elif self.epoch:
            yield f"assumed: {self.epoch:,} steps an epoch, by its optimiser, or give --images"
        if name == "maskgit-pytorch" and training.precision == "no":
            yield "assumed: float32, as no file tells bf16; or give --training.precision bf16"
        tokenizer = "" if self.foreign.tokenizer else f"tokenizer {self.recipe.tokenizer}, "
        yield f"assumed: {tokenizer}crop {self.recipe.crop}, plan of {self.named.name}"
        yield "not known: the order of the data, which begins anew at this step"


def find_training(
    source: Path, kind: Kind | None = None, *, images: int | None = None, **stated: Unpack[Stated]
) -> Takeover:
    """Read the training of another project; nothing is written.

    Args:
        source: see :func:`unmask.projects.training_state.read_training`.
        kind: what it must be; None recognises it.
        images: training images of the source, whose epochs become steps by them; None finds them
            by the optimiser's own count.
        stated: what the files do not tell; see :func:`unmask.projects.foreign.load_foreign`.

    Raises:
        InputError: for files without a training, of another project, damaged, or of settings that
            this library has no counterpart for.
    """
    state = read_training(Path(source))
    origin = str(state.file)
    if kind is None and "mask_strategy" in state.settings:
        kind = "emigm"  # whose files may look like MAR's
    project = recognise(state.weights, origin, kind)
    config = state.sizes or state.settings
    raw = Checkpoint(state.weights, state.file, {}, config, state.settings_file)
    foreign = translated(raw, project, **stated)
    if unknown := foreign.details.get("unknown"):
        raise InputError(f"{origin} trains parts that {project.name} has not: {unknown}")
    named = matching_recipe(foreign)
    settings = state.settings_file or state.file
    try:
        with expected(state.file):
            kept = moments(state, project.name)
        with expected(settings):
            step, epoch = _steps(state, kept.step, named, images)
            recipe = _with_settings(named, state, project, epoch or 1)
    except InputError as error:
        told = str(error)
        raise InputError(told if origin in told else f"{settings}: {told}") from None
    return Takeover(recipe, named, step, epoch, state, kept, project, foreign)


def _steps(
    state: TrainingState, counted: int, named: Recipe, images: int | None
) -> tuple[int, int | None]:
    """Steps done, and those of an epoch, where the optimiser counted some fewer.

    It does not count what the loss scaler left out, as the schedule does.
    """
    if state.steps is not None:
        return state.steps, None
    args, epochs = state.settings, state.epochs or 1
    batch, own = images_a_step(args) or named.training.batch_size, args.get("batch_size")
    if images is not None and own:
        world = args.get("world_size", 1)
        epoch = -(-images // world) // own // args.get("accum_iter", 1)
    elif images is not None:
        epoch = images // batch
    elif 0 <= IMAGENET // batch * epochs - counted <= SKIPPED * counted:
        epoch = IMAGENET // batch
    else:
        epoch = -(-counted // epochs)
    if epoch * epochs < counted:
        raise InputError(
            f"{images:,} images are {epoch:,} steps an epoch, and its optimiser did {counted:,} in "
            f"{epochs} epochs; give the number of its training images"
        )
    return epoch * epochs, epoch


def _with_settings(named: Recipe, state: TrainingState, project: Project, epoch: int) -> Recipe:
    groups: list[dict[str, Any]] = state.optimizer["param_groups"]
    told = {
        "betas": tuple(groups[0]["betas"]),
        "eps": groups[0]["eps"],
        "weight_decay": max(group["weight_decay"] for group in groups),
        "lr": groups[0].get("initial_lr", named.training.lr),
        "precision": "fp16" if state.scaler else "no",
    }
    if groups[0].get("decoupled_weight_decay") is False:
        raise InputError("its optimiser is Adam, and this library's is AdamW")
    recipe = replace(named, training=replace(named.training, **told))
    if project.name == "unlockmgm":
        return with_configuration(recipe, state.settings, state.average)
    if project.name == "maskgit-pytorch":
        recipe = with_settings(recipe, state.settings, str(state.settings_file))
        average = recipe.training.ema or Ema(warmup="none")
        average = replace(average, decay=state.average["decay"])
        return replace(recipe, training=replace(recipe.training, ema=average))
    return with_arguments(recipe, state.settings, epoch)


def take_over(found: Takeover, recipe: Recipe, out: Path) -> Recipe:
    """Write a training as a run of this library.

    Args:
        found: by :func:`find_training`.
        recipe: its recipe, with changes if wanted; the run can only go on with this one. Epochs
            become steps by the source's, of ImageNet where it counts none.
        out: run folder, which must be empty or not there yet.

    Returns:
        The recipe of the run, which also names what was written beside its checkpoint.

    Raises:
        InputError: ``out`` holds something, the disk is full, or weights, average or optimiser do
            not fill the recipe's network exactly.
    """
    batch = recipe.training.batch_size
    epoch = found.epoch or IMAGENET // batch
    recipe = replace(recipe, training=in_steps(recipe.training, epoch * batch))
    run_folder.check_place(out)
    if run_folder.stored_config(out) is not None:
        raise InputError(f"{out} holds a run already; name a new folder")
    check_fits(recipe.network.build, "network")
    model = recipe.network.build()
    load_state(model, found.foreign.state, str(found.state.file))
    with durable.output_folder(out) as aside:
        if recipe.substitution is not None:
            recipe = replace(recipe, base=str(out / BASE))
            _save_base(recipe, model, aside / BASE)
        if found.foreign.tokenizer and recipe.tokenizer == found.recipe.tokenizer:
            tokenizer = tokenizer_of(found.foreign.tokenizer, {}, str(found.state.file))
            save_tokenizer(tokenizer, aside / TOKENIZER)
            recipe = replace(recipe, tokenizer=str(out / TOKENIZER))
        config = run_folder.plain_config(to_dict(recipe))
        accelerator, objective = Accelerator(cpu=True), objective_of(recipe, model)
        run = Run(objective, recipe.training, out=aside, config=config, accelerator=accelerator)
        _fill(run, model, found)
        if found.state.scaler:
            accelerator.scaler = torch.amp.GradScaler("cpu")
            with expected(found.state.file):
                accelerator.scaler.load_state_dict(dict(found.state.scaler))
        run_folder.write_recipe(aside, config)
        run.save(found.step)
        if out.is_dir():
            out.rmdir()  # it is empty
    return recipe


def _save_base(recipe: Recipe, model: MaskedModel, folder: Path) -> None:
    """The frozen network as a model, without the adapter that the run trains."""
    assert isinstance(recipe.network, CodeNetwork), "others have no adapter"
    plain = replace(recipe.network, feedback=None)
    base = plain.build()
    own = base.state_dict()
    load_state(base, {name: t for name, t in model.state_dict().items() if name in own})
    unguided = replace(recipe.plan, guidance=Guidance())
    parts: dict[str, Any] = {"base": None, "substitution": None, "network": plain, "plan": unguided}
    alone = replace(recipe, plans=(), results=(), **parts)
    Pipeline(alone, base, None).save_pretrained(folder)


@torch.no_grad()
def _fill(run: Run, model: MaskedModel, found: Takeover) -> None:
    """Put average and moments into a run whose model has the weights."""
    state, origin = found.state, str(found.state.file)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    others = model.state_dict(keep_vars=True)
    for part, values in found.moments.averages.items():
        named = _own(values, found)
        if lost := [name for name in trained if name not in named]:
            raise InputError(f"{origin} keeps no {part} of {lost[0]!r}; was it never updated?")
        if more := [name for name in named if name not in others or not others[name].requires_grad]:
            raise InputError(f"{origin} trains {more[0]!r}, and {found.recipe.name} does not")
        for name, parameter in trained.items():
            kept = run.optimizer.state[parameter]
            kept |= {"step": torch.tensor(float(found.moments.step)), part: named[name].clone()}
    if run.ema is None:
        return
    if state.averages is None:
        raise InputError(f"{origin} keeps no average of the weights; give --training.ema None")
    averages = _own(state.averages, found)
    check_state(model.state_dict(), averages, origin)
    # Where a parameter has two names the first counts, under which it was averaged.
    by_parameter = {id(p): averages[name] for name, p in model.named_parameters()}
    for live, shadow in zip(run.ema.live, run.ema.shadow, strict=True):
        shadow.copy_(by_parameter[id(live)])
    run.ema.updates = found.step if state.updates is None else state.updates


def _own(tensors: Tensors, found: Takeover) -> dict[str, Tensor]:
    network = found.project.parts(tensors).network
    return to_own(network, found.project.rules, str(found.state.file), cast=single)
