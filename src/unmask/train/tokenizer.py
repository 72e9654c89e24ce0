"""Training a small tokenizer from images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import set_seed
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from unmask.checkpoints.locate import EXPORT
from unmask.data.batches import ImageBatches
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator, keyed_seed
from unmask.errors import InputError
from unmask.files.serial import MADE_FROM, to_dict
from unmask.machine.processes import launched
from unmask.memory import check_fits
from unmask.pictures import sheet, to_float, usual_zoom
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.recipes.training import in_steps
from unmask.text import say
from unmask.tokenizers.folder import save_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer, filled
from unmask.tokenizers.objective import TokenizerObjective
from unmask.tokenizers.tokenizer import noise_shape
from unmask.train.loop import TrainResult, train
from unmask.train.previews import TOGETHER, save_sheet, sheet_previews
from unmask.train.run import Look, Preview

MOST_SHOWN = 16  # images of a sheet, which are in memory throughout the training
SCALE_IMAGES = 1024  # on which the spread of latents is measured


class NoisyBatches(Dataset[list[tuple[Tensor | None, ...]]]):
    """Batches of images and the noise with which latents are drawn, each a function of (seed, k).

    Args:
        batches: of images.
        shape: ``(C, h, w)`` of an image's latents; C is 0 of codes.
    """

    def __init__(self, batches: ImageBatches, shape: tuple[int, int, int]) -> None:
        self.batches, self.shape = batches, shape

    def __getitem__(self, step: int) -> list[tuple[Tensor | None, ...]]:
        """Images, labels and ``(b, C, h, w)`` standard normal noise a micro-batch."""
        images = self.batches
        generator = keyed_generator(images.seed, "posterior", step)
        noise = torch.randn(images.batch_size, *self.shape, generator=generator)  # (B, C, h, w)
        return [(*part, noise[rows]) for part, rows in zip(images[step], images.own, strict=True)]


def train_tokenizer(
    recipe: TokenizerRecipe,
    source: ImageSource,
    *,
    out: Path,
    num_workers: int = 0,
    from_scratch: bool = False,
) -> TrainResult:
    """Train, continue or just finish a run, and export ``out/model``.

    Args:
        recipe: what to train and how.
        source: training images.
        out: the run folder.
        num_workers: processes that read images.
        from_scratch: see :func:`unmask.train.loop.train`.

    Raises:
        InputError: see :func:`unmask.train.loop.train`.
    """
    state = launched()
    recipe = replace(recipe, training=in_steps(recipe.training, len(source)))
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
        micro_batch_size=recipe.training.micro_batch_size,
    )
    set_seed(keyed_seed(recipe.training.seed, "weights") % 2**32)  # torch's layers draw their own
    check_fits(recipe.build, "network")
    tokenizer = recipe.build()
    shown = max(1, min(MOST_SHOWN, recipe.training.preview_images))
    examples = to_float(_examples(source, transform, range(len(source)), shown))
    result = train(
        TokenizerObjective(tokenizer, recipe.loss, batch_size=recipe.training.batch_size),
        NoisyBatches(batches, noise_shape(tokenizer, recipe.grid)),
        settings=recipe.training,
        out=out,
        config={**to_dict(recipe), MADE_FROM: {"data": source.name, "images": len(source)}},
        previews=[
            *sheet_previews(_reconstruction_sheet(tokenizer, examples), recipe.training),
            _export(tokenizer, recipe, source),
        ],
        num_workers=num_workers,
        from_scratch=from_scratch,
    )
    if state.is_main_process and (news := batches.bad.news()):
        say(news)
    return result


def _examples(
    source: ImageSource, transform: Transform, rows: Iterable[int], count: int
) -> torch.Tensor:
    """The first readable ones of some images, ``(N, C, H, W)`` uint8."""
    still = Transform(size=transform.size, crop="center", channels=transform.channels)
    readable = (image for row in rows if (image := _readable(source, row)))
    images = [still(image) for image in islice(readable, count)]
    if not images:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    return torch.stack(images)


def _readable(source: ImageSource, row: int) -> Image.Image | None:
    try:
        return source.image(row)
    except UnreadableImageError:
        return None  # counted and named when its turn in the training comes


def _reconstruction_sheet(tokenizer: ImageTokenizer, examples: torch.Tensor) -> Look:
    """Originals above their reconstructions."""

    def draw(folder: Path, step: int, averaged: bool) -> None:
        """A :data:`Look`."""
        device = next(tokenizer.parameters()).device
        parts = examples.split(TOGETHER)
        made = torch.cat([tokenizer.reconstruct(part.to(device)).cpu() for part in parts])
        pairs = torch.stack([examples, made]).flatten(0, 1)
        picture = sheet(pairs, len(examples), zoom=usual_zoom(examples))
        save_sheet(picture, folder, step, averaged)

    return draw


def _export(tokenizer: ImageTokenizer, recipe: TokenizerRecipe, source: ImageSource) -> Preview:
    """Writes the averaged (or else raw) weights of the last step as the run's model."""
    return Preview(
        lambda folder, step, averaged: save_tokenizer(_scaled(tokenizer, recipe, source), folder),
        raw=False,
        missing=lambda out, step: True,
        place=EXPORT,
    )


def _scaled(
    tokenizer: ImageTokenizer, recipe: TokenizerRecipe, source: ImageSource
) -> ImageTokenizer:
    """The tokenizer whose latents have a spread of 1 (latent diffusion, arXiv 2112.10752, app. G).

    Measured on latents that are drawn of images spread evenly over the source. Codes have no scale.
    """
    if tokenizer.space[0] == "codes":
        return tokenizer
    transform = Transform(size=recipe.image_size, crop=recipe.crop, channels=recipe.channels)
    every = -(-len(source) // SCALE_IMAGES)
    images = _examples(source, transform, range(0, len(source), every), SCALE_IMAGES)
    device = next(tokenizer.parameters()).device
    parts = [tokenizer.encode(to_float(part.to(device))) for part in images.split(64)]
    shape = (len(images), *noise_shape(tokenizer, recipe.grid))
    noise = torch.randn(shape, generator=keyed_generator("scale")).to(device)
    spread = tokenizer.tokens(torch.cat(parts), noise).std()
    sizes = replace(tokenizer.config, scale=float(f"{tokenizer.scale / spread:.4g}"))
    return filled(sizes.build, tokenizer.state_dict())
