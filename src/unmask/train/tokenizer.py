"""Training a small tokenizer from images."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import set_seed
from PIL import Image

from unmask.checkpoints.locate import EXPORT
from unmask.data.batches import ImageBatches
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_seed
from unmask.errors import InputError
from unmask.pictures import sheet
from unmask.recipes.serial import MADE_FROM, to_dict
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.tokenizers.conv_vq import ConvVQTokenizer
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.tokenizers.vq_objective import VQObjective
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.train.loop import TrainResult, train
from unmask.train.processes import launched
from unmask.train.run import Preview
from unmask.train.state import latest, read_checkpoint

PREVIEW_IMAGES = 16


def train_tokenizer(
    recipe: TokenizerRecipe, source: ImageSource, *, out: Path, num_workers: int = 0
) -> TrainResult:
    """Train, continue or just finish a run, and export ``out/model``.

    Args:
        recipe: what to train and how.
        source: training images.
        out: the run folder.
        num_workers: processes that read images.

    Raises:
        InputError: see :func:`unmask.train.loop.train`.
    """
    state = launched()
    transform = Transform(
        size=recipe.image_size, crop=recipe.crop, flip=recipe.flip, channels=recipe.channels
    )
    batches = ImageBatches(
        source,
        transform,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        steps=recipe.training.steps,
        rank=state.process_index,
        world=state.num_processes,
        accumulate=recipe.training.accumulate,
    )
    set_seed(keyed_seed(recipe.training.seed, "weights") % 2**32)  # torch's layers draw their own
    tokenizer = ConvVQTokenizer(recipe.network)
    examples = _examples(source, transform)
    result = train(
        VQObjective(tokenizer, recipe.loss, batch_size=recipe.training.batch_size),
        batches,
        settings=recipe.training,
        out=out,
        config={**to_dict(recipe), MADE_FROM: {"data": source.name, "images": len(source)}},
        preview=_reconstruction_sheet(tokenizer, examples),
        num_workers=num_workers,
    )
    if state.is_main_process:
        if news := batches.bad.news():
            print(news)
        export_tokenizer(recipe, out)
    return result


def _examples(source: ImageSource, transform: Transform) -> torch.Tensor:
    """The first images, ``(N, C, S, S)`` float32 in [0, 1]."""
    still = Transform(size=transform.size, crop="center", channels=transform.channels)
    readable = (image for row in range(len(source)) if (image := _readable(source, row)))
    images = [still(image) for image in islice(readable, PREVIEW_IMAGES)]
    if not images:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    return torch.stack(images).float() / 255


def _readable(source: ImageSource, row: int) -> Image.Image | None:
    try:
        return source.image(row)
    except UnreadableImageError:
        return None  # counted and named when its turn in the training comes


def _reconstruction_sheet(tokenizer: VQTokenizer, examples: torch.Tensor) -> Preview:
    """Originals above their reconstructions."""

    def draw(folder: Path, step: int, averaged: bool) -> None:
        """A :data:`Preview`."""
        device = next(tokenizer.parameters()).device
        made = tokenizer.decode(tokenizer.encode(examples.to(device))).cpu()
        pairs = torch.stack([examples, made]).flatten(0, 1)
        kind = "ema" if averaged else "raw"
        zoom = max(1, 64 // examples.shape[-1])
        sheet(pairs, len(examples), zoom=zoom).save(folder / f"step-{step:07d}-{kind}.png")

    return draw


def export_tokenizer(recipe: TokenizerRecipe, out: Path) -> VQTokenizer:
    """Write the newest checkpoint's averaged (or else raw) weights as ``out/model``.

    Returns:
        The tokenizer, in evaluation mode, frozen.

    Raises:
        InputError: when the run has no complete checkpoint yet.
    """
    folder = latest(out / "checkpoints")
    if folder is None:
        raise InputError(f"{out} has no complete checkpoint yet; let it train to its first save")
    weights = read_checkpoint(folder).weights
    tokenizer = ConvVQTokenizer(recipe.network)
    tokenizer.load_state_dict(weights.get("ema", weights["model"]))
    save_tokenizer(tokenizer, out / EXPORT)
    return load_tokenizer(out / EXPORT)
