"""Judging a system, or a set of its images, against real data with both floors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.classifier import (
    TrainedClassifier,
    load_fashion_classifier,
    train_classifier,
    with_test_accuracy,
)
from unmask.evaluate.evaluation import EvaluationOptions, evaluate
from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor
from unmask.evaluate.image_sets import ImageBatch, gather
from unmask.evaluate.inception import load_inception
from unmask.evaluate.reference import ReferenceStatistics, open_reference
from unmask.evaluate.report import Report
from unmask.generation import generate
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline
from unmask.tokenizers.tokenizer import Tokenizer

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How much is judged, and by what."""

    count: int = 2000
    """Images of every set; scores of other counts do not compare."""
    seed: int = 0
    """Image k is generated from seed + k."""
    resize: int = 128
    """Pixels that EfficientNet sees; 224 is its own size and five times slower."""
    inception: Path | None = None
    """Weights of the 2015 Inception network (torch-fidelity's releases), for its features instead;
    always at 299 pixels."""
    reference: Path | None = None
    """Reference statistics of that network (.npz) that fd compares with, instead of the held-out
    images; FID needs them and 50,000 images."""
    classifier: Literal["none", "fashion", "train"] = "none"
    """Judge of conditional samples: the shipped Fashion-MNIST one, or one trained now on the real
    training split."""
    batch_size: int = BATCH
    """Images a batch."""
    device: str = "cpu"
    """Where the feature network computes."""

    @property
    def seeds(self) -> str:
        """First and last, for a report."""
        return f"{self.seed} to {self.seed + self.count - 1}"

    def __post_init__(self) -> None:
        """Reject counts without statistics."""
        if self.count < 2:
            raise InputError(f"count={self.count} must be at least 2; 2000 is a fair start")
        if self.reference is not None and self.inception is None:
            raise InputError(
                f"reference={self.reference} holds statistics of Inception features; give the "
                "weights of that network too (--inception)"
            )


def real_batches(
    source: ImageSource,
    transform: Transform,
    *,
    count: int,
    batch_size: int = BATCH,
    skipped: set[str] | None = None,
) -> Iterator[ImageBatch]:
    """Real images in a fixed random order, at most ``count``, uint8 with labels if they have.

    Args:
        source: the images.
        transform: brings them to one size.
        count: images wanted; unreadable ones are passed over and do not count.
        batch_size: images a batch.
        skipped: collects the keys of unreadable images.
    """
    readable = islice(_readable(source, set() if skipped is None else skipped), count)
    while batch := list(islice(readable, batch_size)):
        known = [label for _, label in batch if label is not None]
        yield ImageBatch(
            torch.stack([transform(image) for image, _ in batch]),
            torch.tensor(known) if len(known) == len(batch) else None,
        )


def _readable(source: ImageSource, skipped: set[str]) -> Iterator[tuple[Image.Image, int | None]]:
    """Images and labels in a fixed random order; the keys of the others go into ``skipped``."""
    for row in torch.randperm(len(source), generator=keyed_generator("real", len(source))).tolist():
        try:
            image = source.image(row)
        except UnreadableImageError as error:
            skipped.add(error.key)
            continue
        yield image, source.label(row)


def reconstructions(
    batches: Iterable[ImageBatch], tokenizer: Tokenizer, device: torch.device
) -> Iterator[ImageBatch]:
    """The same images through the tokenizer and back."""
    for batch in batches:
        ids = tokenizer.encode(batch.images.to(device).float() / 255)
        made = tokenizer.decode(ids, _grid(batch.images, tokenizer))
        yield batch._replace(images=to_uint8(made).cpu())


def _grid(images: Tensor, tokenizer: Tokenizer) -> tuple[int, int]:
    return images.shape[-2] // tokenizer.stride, images.shape[-1] // tokenizer.stride


def generated_batches(
    pipeline: Pipeline,
    judgement: Judgement,
    *,
    plan: Plan | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Iterator[ImageBatch]:
    """Samples straight from the network, the classes in turn, 8 bits a channel."""
    seeds = range(judgement.seed, judgement.seed + judgement.count)
    classes = pipeline.model.classes
    labels = [i % classes for i in range(judgement.count)] if classes else None
    for batch in generate(
        pipeline, labels, seeds=seeds, plan=plan, batch_size=judgement.batch_size
    ):
        found = None if batch.class_labels is None else batch.class_labels.cpu()
        yield ImageBatch(to_uint8(batch.pixels).cpu(), found)
        if on_images is not None:
            on_images(len(batch.seeds))


def choose_classifier(
    judgement: Judgement, train: ImageSource, held_out: ImageSource, transform: Transform
) -> TrainedClassifier | None:
    """The judge of classes; one trained now states its accuracy on the held-out images.

    Raises:
        InputError: when the images have no labels to train on.
    """
    if judgement.classifier == "none":
        return None
    if judgement.classifier == "fashion":
        return load_fashion_classifier()
    if not train.class_names:
        raise InputError(f"{train.name} has no labels: a classifier cannot be trained on it")
    known = gather(real_batches(train, transform, count=len(train)))
    test = gather(real_batches(held_out, transform, count=len(held_out)))
    assert known.labels is not None, "named classes mean labels"
    assert test.labels is not None, "named classes mean labels"
    judge = train_classifier(
        known.images,
        known.labels,
        classes=len(train.class_names),
        name=f"a classifier trained on {train.name}",
        device=judgement.device,
    )
    return with_test_accuracy(judge, test.images, test.labels)


def _measure(judgement: Judgement) -> tuple[FeatureExtractor, ReferenceStatistics | None]:
    """The feature network, and the statistics that it compares with if they are given."""
    if judgement.inception is None:
        return EfficientNetLite0(resize=judgement.resize, device=judgement.device), None
    network = load_inception(judgement.inception, device=judgement.device)
    path = judgement.reference
    return network, None if path is None else open_reference(path, network)


def judge_images(
    generated: Iterable[ImageBatch],
    train: ImageSource,
    held_out: ImageSource,
    transform: Transform,
    *,
    judgement: Judgement,
    tokenizer: Tokenizer | None = None,
    seeds: str | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Score images against held-out real ones, beside the floors.

    The real floor compares training images with the held-out ones; the reconstruction floor sends
    the held-out ones through the tokenizer.

    Args:
        generated: uint8 batches, labelled if conditional.
        train: real images that a model may have seen.
        held_out: real images that it has not.
        transform: brings real images to the generated size.
        judgement: counts and judges.
        tokenizer: for the reconstruction floor, on the judgement's device; None leaves it out.
        seeds: of the generated images, for the report; None if unknown.
        notes: more lines for the report.

    Raises:
        InputError: sizes or channels that differ, too few images, Inception weights or reference
            statistics that are missing or do not fit.
    """
    still = replace(transform, flip=False)
    count, size = judgement.count, judgement.batch_size

    skipped: set[str] = set()

    def real(source: ImageSource) -> Iterator[ImageBatch]:
        """The images of one side."""
        return real_batches(source, still, count=count, batch_size=size, skipped=skipped)

    device = torch.device(judgement.device)
    extractor, statistics = _measure(judgement)
    report = evaluate(
        generated,
        real(held_out),
        extractor=extractor,
        reconstructed=reconstructions(real(held_out), tokenizer, device) if tokenizer else None,
        real=real(train),
        classifier=choose_classifier(judgement, train, held_out, still),
        options=EvaluationOptions(
            seeds=seeds, notes=(held_out.split_rule, *notes), statistics=statistics
        ),
    )
    if not skipped:
        return report
    some = ", ".join(sorted(skipped)[:5])
    return report.noted(f"{len(skipped)} unreadable real images skipped: {some}")
