"""What the training of a generator looks at now and then: sheets of samples, and their scores."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from PIL import Image

from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.decode import Plan
from unmask.divergence import divergence
from unmask.errors import InputError
from unmask.evaluate.classifier import TrainedClassifier, load_classifier, load_fashion_classifier
from unmask.evaluate.features import EfficientNetLite0
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.measure import RunningScores, measure, measure_statistics
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import real_batches
from unmask.evaluate.reference import ReferenceStatistics
from unmask.files import durable
from unmask.generation import generate
from unmask.guidance import Guidance
from unmask.image_size import height_width
from unmask.machine.processes import gathered, launched
from unmask.pictures import sheet, to_uint8, usual_zoom
from unmask.pipeline import Pipeline
from unmask.recipes.training import Training
from unmask.train.live_images import LiveImages
from unmask.train.log import lines_of
from unmask.train.run import Figures, Look, Preview
from unmask.train.run_folder import LOG, SAMPLES

TOGETHER = 4  # images of a sheet that are decoded at once, beside a training in full memory
SIZE_IMAGES = 256  # that tell how large the data's latents are


def usual_size(cache: LatentCache | LiveImages) -> float:
    """Root mean square of the data's latents, measured on some of them; 1 for codes."""
    if not cache.channels:
        return 1.0
    rows = torch.arange(0, len(cache), -(-len(cache) // SIZE_IMAGES))
    return cache.tokens(rows, torch.zeros_like(rows)).square().mean().sqrt().item()


def sample_sheet(pipeline: Pipeline, *, usual: float) -> Look:
    """Draws the same seeds every time, so that sheets can be compared.

    Args:
        pipeline: around the network in training.
        usual: see :func:`unmask.divergence.divergence`, which is asked about the samples.
    """
    classes, count = pipeline.model.classes, pipeline.recipe.training.preview_images
    labels = [i * classes // count for i in range(count)] if classes else None

    def draw(folder: Path, step: int, averaged: bool) -> Figures:
        """A :data:`Look`."""
        pipeline.tokenizer.to(next(pipeline.model.parameters()).device)
        parts = [
            (to_uint8(made.pixels).cpu(), made.tokens.cpu())
            for made in generate(pipeline, labels, seeds=range(count), batch_size=TOGETHER)
        ]
        pixels, tokens = (torch.cat(part) for part in zip(*parts, strict=True))
        save_sheet(sheet(pixels, min(8, count), zoom=usual_zoom(pixels)), folder, step, averaged)
        warning = divergence(tokens, pipeline.plan.draw, usual=usual)
        return {"warning": warning} if warning else {}

    return draw


def sheet_path(folder: Path, step: int, averaged: bool) -> Path:
    """Where a sheet lies in the folder of samples."""
    return folder / f"step-{step:07d}-{'ema' if averaged else 'raw'}.png"


def save_sheet(picture: Image.Image, folder: Path, step: int, averaged: bool) -> None:
    """Write a sheet; an older one stays until it is whole.

    Raises:
        InputError: if the disk is full or refuses.
    """
    content, path = io.BytesIO(), sheet_path(folder, step, averaged)
    picture.save(content, format="PNG")
    durable.replace_file(path, content.getvalue(), "checkpoints are whole")


def sheet_previews(look: Look, training: Training) -> list[Preview]:
    """Sheets as often as the options say; none where they have no images."""
    if not training.preview_images:
        return []

    def missing(out: Path, step: int) -> bool:
        """Whether the raw weights, which come last, have no sheet."""
        return not sheet_path(out / SAMPLES, step, averaged=False).exists()

    return [Preview(look, training.preview_every, optional=True, missing=missing)]


class OnlineScores:
    """Scores the weights as they are beside held-out images, as ``unmask eval`` would; a ``Look``.

    Figures are eval/fd, eval/is and, with a classifier, eval/accuracy without guidance, and the
    same with "_guided" behind where the plan guides (MAR's and eMIGM's online evaluation). Each
    process generates and measures its share; image k has seed k and class k modulo the classes.

    Args:
        pipeline: around the network in training; its recipe tells how much is scored.
        held_out: real images to compare with.
        usual: see :func:`unmask.divergence.divergence`.

    Raises:
        InputError: too few images, or a classifier of other images.
    """

    def __init__(self, pipeline: Pipeline, held_out: ImageSource, *, usual: float) -> None:
        if len(held_out) < 2:
            raise InputError(f"{held_out.name} holds {len(held_out)} image; scores need at least 2")
        recipe, self.plans = pipeline.recipe, {"": replace(pipeline.plan, guidance=Guidance())}
        if pipeline.plan.guidance.scales:
            self.plans["_guided"] = pipeline.plan
        self.pipeline, self.held_out, self.usual = pipeline, held_out, usual
        self.count = recipe.training.evaluate_images
        (rows, columns), stride = pipeline.model.grid, pipeline.tokenizer.stride
        self.transform = Transform(
            size=(rows * stride, columns * stride),
            crop=recipe.still_crop,
            channels=pipeline.tokenizer.image_channels,
        )
        self.classifier = self._classifier(recipe.training.evaluate_classifier)

    def _classifier(self, name: str | None) -> TrainedClassifier | None:
        if name is None:
            return None
        found = load_fashion_classifier() if name == "fashion" else load_classifier(name)
        shape, classes = height_width(self.transform.size), self.pipeline.model.classes
        found.logits(torch.zeros(1, self.transform.channels, *shape, dtype=torch.uint8))
        if found.classes != classes:
            raise InputError(
                f"the classifier {found.name!r} knows {found.classes} classes and the network "
                f"{classes}; leave out training.evaluate_classifier or give another"
            )
        return found

    @cached_property
    def extractor(self) -> EfficientNetLite0:
        """The feature network, on this process's device."""
        return EfficientNetLite0(resize=EvaluationOptions().resize, device=launched().device)

    @cached_property
    def reference(self) -> ReferenceStatistics:
        """What the real images look like to it."""
        real = real_batches(self.held_out, self.transform, count=self.count)
        return measure_statistics(real, self.extractor, source=self.held_out.name)

    def missing(self, out: Path, step: int) -> bool:
        """Whether the log has no scores of a step."""
        return not any("eval/fd" in line for line in lines_of(out / LOG, step))

    def __call__(self, folder: Path, step: int, averaged: bool) -> Figures:
        """Generate, measure, meet the other processes; the main one has the figures."""
        figures: dict[str, float | str] = {}
        for kind, plan in self.plans.items():
            found = measure(self._share(plan, figures), self.extractor, self.classifier)
            own = [part._replace(spatial=None) for part in found]
            every = chain(*gathered(own))
            if launched().is_main_process:
                scores = RunningScores.of(every, split=EvaluationOptions().inception_split)
                accuracy = scores.accuracy()
                figures[f"eval/fd{kind}"] = scores.statistics("generated").fid(self.reference)
                figures[f"eval/is{kind}"] = scores.score.value()
                if accuracy is not None:
                    figures[f"eval/accuracy{kind}"] = accuracy
        return figures if launched().is_main_process else {}

    def _share(self, plan: Plan, figures: dict[str, float | str]) -> Iterator[ImageBatch]:
        """This process's part of the images; a warning about it goes into the figures."""
        state, classes = launched(), self.pipeline.model.classes
        ends = [self.count * (state.process_index + i) // state.num_processes for i in (0, 1)]
        seeds = range(*ends)
        self.pipeline.tokenizer.to(state.device)
        labels = [seed % classes for seed in seeds] if classes else None
        size = EvaluationOptions().batch_size
        for made in generate(self.pipeline, labels, seeds=seeds, plan=plan, batch_size=size):
            warning = divergence(made.tokens, plan.draw, usual=self.usual)
            figures |= {"warning": warning} if warning else {}
            found = None if made.class_labels is None else made.class_labels.cpu()
            yield ImageBatch(to_uint8(made.pixels).cpu(), found)
