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
from unmask.evaluate.evaluation import check_enough, choose_extractor, choose_reference
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.measure import RunningScores, measure
from unmask.evaluate.numbered_set import NumberedSet
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages
from unmask.evaluate.reference import ReferenceStatistics
from unmask.files import durable
from unmask.files.folders import as_place
from unmask.generation import generate
from unmask.guidance import Guidance
from unmask.image_size import height_width
from unmask.machine.processes import gathered, launched, share
from unmask.pictures import sheet, to_uint8, usual_zoom
from unmask.pipeline import Pipeline
from unmask.plan_changes import PlanChanges
from unmask.recipes.training import Training
from unmask.train.live_images import LiveImages
from unmask.train.log import lines_of
from unmask.train.run import Figures, Look, Preview
from unmask.train.run_folder import BEST, LOG, SAMPLES

TOGETHER = 4  # images of a sheet that are decoded at once, beside a training in full memory
SIZE_IMAGES = 256  # that tell how large the data's latents are


def usual_size(cache: LatentCache | LiveImages) -> float:
    """Root mean square of the data's latents, measured on some of them; 1 for codes."""
    if not cache.channels:
        return 1.0
    rows = torch.arange(0, len(cache), -(-len(cache) // SIZE_IMAGES))
    return cache.tokens(rows, torch.zeros_like(rows)).square().mean().sqrt().item()


def still_transform(pipeline: Pipeline) -> Transform:
    """Brings real images to the size of the pipeline's, without chance."""
    (rows, columns), stride = pipeline.model.grid, pipeline.tokenizer.stride
    return Transform(
        size=(rows * stride, columns * stride),
        crop=pipeline.recipe.still_crop,
        channels=pipeline.tokenizer.image_channels,
    )


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
    """Scores the weights as they are beside real images, as ``unmask eval`` would; a ``Look``.

    Figures are eval/fd, eval/is and, with a classifier, eval/accuracy without guidance, and the
    same with "_guided" behind where the plan guides (MAR's and eMIGM's online evaluation). Each
    process generates and measures its share; image k has seed k and class k modulo the classes.

    Args:
        pipeline: around the network in training; its recipe tells how much is scored, by what.
        held_out: real images to compare with; None where the recipe names a reference.
        usual: see :func:`unmask.divergence.divergence`.

    Raises:
        InputError: too few images or none, a classifier of other images, or a network or reference
            that is missing or does not fit.
    """

    def __init__(self, pipeline: Pipeline, held_out: ImageSource | None, *, usual: float) -> None:
        training = pipeline.recipe.training
        self.pipeline, self.usual, self.training = pipeline, usual, training
        plain = replace(pipeline.plan, guidance=Guidance())
        self.plans = {"": PlanChanges(temperature=training.evaluate_temperature).applied(plain)}
        if pipeline.plan.guidance.scales:
            self.plans["_guided"] = pipeline.plan
        self.transform = still_transform(pipeline)
        self.classifier = self._classifier(training.evaluate_classifier)
        inception, reference = training.evaluate_inception, training.evaluate_reference
        self.options = EvaluationOptions(
            count=training.evaluate_images,
            inception=None if inception is None else as_place(inception),
            reference=None if reference is None else as_place(reference),
            device=str(launched().device),
        )
        shape = (self.transform.channels, *height_width(self.transform.size))
        self.extractor = choose_extractor(self.options, shape)
        real = None if held_out is None else RealImages(held_out, held_out, self.transform)
        self.known = choose_reference(real, self.options, self.extractor, shape)
        self.images: NumberedSet | None = None
        if self.known.images is not None:
            self.images = NumberedSet.of("reference", self.known.images)
        elif real is not None and self.known.statistics is None:
            check_enough(real.held_out.name, len(real.held_out), neighbours=1)
            self.images = real.sets(self.options, None)["reference"]

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
    def reference(self) -> ReferenceStatistics:
        """What the real images look like; images are measured once, by all processes together."""
        if self.known.statistics is not None:
            return self.known.statistics
        assert self.images is not None, "a reference holds statistics or images"
        own = share(self.images.expected or 0)
        found = measure(self.images.read(own.start, own.stop), self.extractor)
        return RunningScores.of(chain(*gathered([*found]))).statistics(self.images.name)

    def missing(self, out: Path, step: int) -> bool:
        """Whether the log has no scores of a step."""
        return not any("eval/fd" in line for line in lines_of(out / LOG, step))

    def __call__(self, folder: Path, step: int, averaged: bool) -> Figures:
        """Generate, measure, meet the other processes; the main one has the figures."""
        figures: dict[str, float | str] = {}
        reference = self.reference
        for kind, plan in self.plans.items():
            found = measure(self._share(plan, figures), self.extractor, self.classifier)
            own = [part._replace(spatial=None) for part in found]
            every = chain(*gathered(own))
            if launched().is_main_process:
                scores = RunningScores.of(every, split=self.options.inception_split)
                accuracy = scores.accuracy()
                figures[f"eval/fd{kind}"] = scores.statistics("generated").fid(reference)
                figures[f"eval/is{kind}"] = scores.score.value()
                if accuracy is not None:
                    figures[f"eval/accuracy{kind}"] = accuracy
        if not launched().is_main_process:
            return {}
        if self.training.keep_best:
            self._keep_best(folder.parent, figures["eval/fd"])
        return figures

    def _keep_best(self, out: Path, found: float | str) -> None:
        """Write the weights as a model if none before had as low a score."""
        before = [line["eval/fd"] for line in lines_of(out / LOG) if "eval/fd" in line]
        if all(float(found) < score for score in before):
            self.pipeline.save_pretrained(out / BEST)

    def _share(self, plan: Plan, figures: dict[str, float | str]) -> Iterator[ImageBatch]:
        """This process's part of the images; a warning about it goes into the figures."""
        classes, seeds = self.pipeline.model.classes, share(self.options.count)
        self.pipeline.tokenizer.to(launched().device)
        labels = [seed % classes for seed in seeds] if classes else None
        size = self.options.batch_size
        for made in generate(self.pipeline, labels, seeds=seeds, plan=plan, batch_size=size):
            warning = divergence(made.tokens, plan.draw, usual=self.usual)
            figures |= {"warning": warning} if warning else {}
            found = None if made.class_labels is None else made.class_labels.cpu()
            yield ImageBatch(to_uint8(made.pixels).cpu(), found)
