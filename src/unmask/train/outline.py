"""What a run is, in a few lines before it begins."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from unmask.data.batches import check_batch_size
from unmask.data.reader import Reader
from unmask.machine.processes import launched
from unmask.memory import GIB, check_fits, skeleton
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.recipes.training import Training, in_steps
from unmask.show import aligned
from unmask.tokenizers.objective import TokenizerObjective
from unmask.train.masked_batches import micro_batches_of
from unmask.train.optim import learning_rate
from unmask.train.run import averaged_of

PRECISIONS = {"no": "float32", "bf16": "float32 with bfloat16", "fp16": "float32 with float16"}


class Examples(NamedTuple):
    """What there is to learn from.

    Args:
        images: Images that are trained on.
        classes: Classes that they are labelled with; 0 without labels.
        grid: Rows and columns of an image's tokens.
        held_out: Images that are not trained on; None where only the cache is known.
    """

    images: int
    classes: int
    grid: tuple[int, int]
    held_out: int | None = None


def outline(objective: nn.Module, examples: Examples, training: Training, out: Path) -> list[str]:
    """Facts about a run as aligned lines, each with its name in front.

    Args:
        objective: what is minimised; on the meta device it is counted as well.
        examples: what is learnt from.
        training: how.
        out: the run folder.

    Raises:
        InputError: the batch exceeds the images, or does not divide among the processes.
    """
    images, (rows, columns) = examples.images, examples.grid
    training = in_steps(training, images)
    check_batch_size(images, training.batch_size)
    held_out = "" if examples.held_out is None else f"{examples.held_out:,} held out, "
    epoch = images // training.batch_size
    facts = {
        "images": f"{images:,} trained on, {held_out}{_counted(examples.classes, 'class', 'es')}",
        "tokens": f"{rows * columns:,} an image ({rows} x {columns})",
        "parameters": _parameters(objective),
        "memory": _memory(objective, training),
        "step": f"{_counted(training.batch_size, 'image')}: {_shares(training)}",
        "epoch": f"{_counted(epoch, 'step')}, {epoch * training.batch_size:,} images",
        "length": f"{_counted(training.steps, 'step')}, {training.steps / epoch:.4g} epochs",
        "rate": _rate(training, epoch),
        "device": f"{launched().device}, {PRECISIONS[training.precision]}",
        "folder": f"{out}: {_places(training)}",
    }
    return aligned(facts)


def tokenizer_outline(recipe: TokenizerRecipe, source: Reader, out: Path) -> list[str]:
    """Facts about the training of a tokenizer, of which nothing is built.

    Args:
        recipe: what is trained and how.
        source: images that are trained on.
        out: the run folder.

    Raises:
        InputError: see :func:`outline`; the weights exceed the machine's memory.
    """
    check_fits(recipe.build, "network")
    with skeleton(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the judge's weights are read for nothing
        objective = TokenizerObjective(
            recipe.build(), recipe.loss, batch_size=recipe.training.batch_size
        )
    held_out = source.total - len(source)
    examples = Examples(len(source), len(source.class_names), recipe.grid, held_out)
    return outline(objective, examples, recipe.training, out)


def _counted(number: int, name: str, ending: str = "s") -> str:
    return f"{number:,} {name}{'' if number == 1 else ending}"


def _trained(module: nn.Module) -> list[Tensor]:
    return [weight for weight in module.parameters() if weight.requires_grad]


def _parameters(objective: nn.Module) -> str:
    trained = sum(weight.numel() for weight in _trained(objective))
    every = sum(weight.numel() for weight in objective.parameters())
    return f"{trained:,} trained, {every - trained:,} frozen"


def state_bytes(objective: nn.Module, training: Training) -> dict[str, int]:
    """Bytes that a process holds from the first step to the last, by what they are for."""
    trained, averaged = _trained(objective), _trained(averaged_of(objective))
    return {
        "weights": _bytes([*objective.parameters(), *objective.buffers()]),
        "gradients": _bytes(trained),
        "moments": 2 * _bytes(trained),  # AdamW's
        "average": sum(4 * weight.numel() for weight in averaged) if training.ema else 0,
    }


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory(objective: nn.Module, training: Training) -> str:
    parts = state_bytes(objective, training)
    told = ", ".join(f"{name} {size / GIB:.3f}" for name, size in parts.items())
    return f"{sum(parts.values()) / GIB:.3f} GiB a process besides activations: {told}"


def _shares(training: Training) -> str:
    """How a batch is cut, alike in all processes."""
    state = launched()
    cuts = micro_batches_of(training, state.process_index, state.num_processes)
    parts, size = _counted(len(cuts), "micro-batch", "es"), cuts[0].stop - cuts[0].start
    return f"{_counted(state.num_processes, 'process', 'es')} with {parts} of {size:,}"


def _rate(training: Training, epoch: int) -> str:
    """The learning rate at its highest, and what becomes of it."""
    steps, warmup = training.steps, training.warmup_steps
    if warmup >= steps:
        last = learning_rate(training, steps - 1)
        return (
            f"ends at {last:.2g} in place of {training.lr:g}: its warm-up of {warmup:,} steps is "
            "as long as the training, or longer; give --training.warmup-steps"
        )
    after = f" after a warm-up of {warmup:,} steps, {warmup / epoch:.4g} epochs" if warmup else ""
    return f"{training.lr:g}, {training.schedule}{after}"


def _places(training: Training) -> str:
    every = [f"{training.save_every:,} steps"] if training.save_every else []
    every += [f"{training.save_minutes:g} minutes"] if training.save_minutes else []
    saves = f"checkpoints every {' and every '.join(every)}" if every else "a checkpoint at the end"
    tracker = "" if training.tracker == "none" else f", figures for {training.tracker}"
    return f"{saves}, samples, log.jsonl{tracker}, model at the end"
