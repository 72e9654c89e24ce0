"""Score generated images against real ones, beside the floors that no sampler can pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.classifier import TrainedClassifier
from unmask.evaluate.features import FeatureExtractor
from unmask.evaluate.image_sets import ImageBatch, as_batches
from unmask.evaluate.inception import Inception
from unmask.evaluate.reference import Moments, ReferenceStatistics
from unmask.evaluate.report import Report, Row
from unmask.evaluate.scores import (
    Manifold,
    RunningInceptionScore,
    class_accuracy,
    manifold_overlap,
)
from unmask.evaluate.statistics import RunningStatistics

Batches = Iterable[Tensor | ImageBatch]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is the same for all rows."""

    neighbours: int = 3
    """k of precision and recall; 3 as published."""
    manifold_images: int = 10_000
    """First images of a set that precision and recall keep in memory, as ADM's evaluator does."""
    statistics: ReferenceStatistics | None = None
    """What fd compares with instead of the reference set, which precision and recall keep."""
    seeds: str | None = None
    """Seeds of the generated images, for the report."""
    notes: tuple[str, ...] = ()
    """More lines for the report."""

    def __post_init__(self) -> None:
        """Reject values without a manifold."""
        if not 1 <= self.neighbours < self.manifold_images:
            raise InputError(
                f"neighbours={self.neighbours} must lie in "
                f"[1, manifold_images={self.manifold_images})"
            )


@dataclass
class _Seen:
    """What one pass over a set leaves behind."""

    statistics: RunningStatistics
    score: RunningInceptionScore = field(default_factory=RunningInceptionScore)
    features: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)

    def add(
        self,
        batch: ImageBatch,
        extractor: FeatureExtractor,
        classifier: TrainedClassifier | None,
        keep: int,
    ) -> None:
        """Take in a batch; features are kept while fewer than ``keep`` images were seen."""
        pooled, probs = extractor(batch.images)
        room = max(0, keep - self.statistics.count)
        self.statistics.update(pooled)
        self.score.update(probs)
        self.features.append(pooled[:room].cpu())
        if classifier is not None and batch.labels is not None:
            self.logits.append(classifier.logits(batch.images).cpu())
            self.labels.append(batch.labels.cpu())

    def accuracy(self) -> float | None:
        """Class accuracy if there was a classifier and every image had a label."""
        labelled = sum(len(part) for part in self.labels)
        if not labelled or labelled < self.statistics.count:
            return None
        return class_accuracy(torch.cat(self.logits), torch.cat(self.labels))


def evaluate(
    generated: Batches,
    reference: Batches,
    *,
    extractor: FeatureExtractor,
    reconstructed: Batches | None = None,
    real: Batches | None = None,
    classifier: TrainedClassifier | None = None,
    options: EvaluationOptions | None = None,
) -> Report:
    """Scores of generated images and, where given, of the floors.

    Sets are read once, batch by batch, so a sampler can be given as a generator. Floors stop at
    the number of generated images, because every score depends on the count.

    Args:
        generated: batches of uint8 ``(B, C, H, W)``, or :class:`ImageBatch` with labels.
        reference: real images that every row is compared with.
        extractor: whose features and predictions are compared.
        reconstructed: real images through the tokenizer and back: what the sampler could reach.
        real: real images that are not in the reference: what the score says of reality.
        classifier: judges the rows that have labels.
        options: the same for all rows.

    Returns:
        The report; its notes name what biases the numbers.

    Raises:
        InputError: for shapes that differ between sets or change within one, fewer than 2 images
            (or too few for the neighbours), labels out of range, features with NaN, or statistics
            of another width. Shapes of the first batches are checked before any feature is
            computed.
    """
    options = options or EvaluationOptions()
    _check_width(options.statistics, extractor)
    given = {"generated": generated, "reconstruction floor": reconstructed, "real floor": real}
    opened = {"reference": _opened("reference", reference)}
    opened |= {name: _opened(name, b) for name, b in given.items() if b is not None}
    shape = _common_shape({name: first for name, (first, _) in opened.items()})

    def pass_over(name: str, limit: int | None) -> _Seen:
        """Extract one set."""
        seen = _Seen(RunningStatistics(extractor.width))
        for batch in _limited(opened[name][1], limit):
            if tuple(batch.images.shape[1:]) != shape:
                raise InputError(
                    f"the set {name!r} changes from shape {shape} to "
                    f"{tuple(batch.images.shape[1:])}; one set needs one shape"
                )
            seen.add(batch, extractor, classifier, options.manifold_images)
        _enough(name, seen.statistics.count, options.neighbours)
        return seen

    seen = {"reference": pass_over("reference", None), "generated": pass_over("generated", None)}
    count = seen["generated"].statistics.count
    seen |= {name: pass_over(name, count) for name in opened if name not in seen}
    return Report(
        rows=_rows(seen, options),
        extractor=extractor.name,
        identity=extractor.identity,
        reference_images=seen["reference"].statistics.count,
        image_shape=shape,
        neighbours=options.neighbours,
        seeds=options.seeds,
        classifier=None if classifier is None else classifier.describe(),
        statistics=None if options.statistics is None else options.statistics.source,
        inception=isinstance(extractor, Inception) and extractor.published,
        notes=(*_notes(seen, extractor, options), *options.notes),
    )


def _check_width(statistics: ReferenceStatistics | None, extractor: FeatureExtractor) -> None:
    if statistics is not None and len(statistics.pooled.mean) != extractor.width:
        raise InputError(
            f"{statistics.source} holds statistics of width {len(statistics.pooled.mean)}, "
            f"{extractor.name} gives {extractor.width}; use statistics of the same network"
        )


def _opened(name: str, source: Batches) -> tuple[ImageBatch, Iterator[ImageBatch]]:
    """The first batch, and all batches including it."""
    batches = as_batches(source)
    first = next((batch for batch in batches if len(batch.images)), None)
    if first is None:
        raise InputError(f"the set {name!r} holds no images; give at least 2")
    return first, chain([first], batches)


def _common_shape(first: dict[str, ImageBatch]) -> tuple[int, int, int]:
    shapes = {name: tuple(batch.images.shape[1:]) for name, batch in first.items()}
    for name, shape in shapes.items():
        if shape != shapes["reference"]:
            raise InputError(
                f"the set {name!r} has images of shape {shape}, the reference "
                f"{shapes['reference']} (channels, height, width); resize or convert one of them"
            )
    channels, height, width = shapes["reference"]
    return channels, height, width


def _limited(batches: Iterator[ImageBatch], limit: int | None) -> Iterator[ImageBatch]:
    """Batches up to ``limit`` images, the last one cut."""
    for batch in batches:
        images, labels = batch
        if limit is not None and len(images) >= limit:
            yield ImageBatch(images[:limit], None if labels is None else labels[:limit])
            return
        limit = None if limit is None else limit - len(images)
        yield batch


def _enough(name: str, count: int, neighbours: int) -> None:
    least = max(2, neighbours + 1)
    if count < least:
        raise InputError(
            f"the set {name!r} holds {count} images, the scores need at least {least}; "
            "give more images"
        )


def _rows(seen: dict[str, _Seen], options: EvaluationOptions) -> tuple[Row, ...]:
    reference, neighbours = seen["reference"], options.neighbours
    manifold = Manifold(torch.cat(reference.features), k=neighbours)
    given = options.statistics
    target = given.pooled if given is not None else Moments.of(reference.statistics)

    def row(name: str, found: _Seen) -> Row:
        """Compare one set with the reference."""
        overlap = manifold_overlap(manifold, Manifold(torch.cat(found.features), k=neighbours))
        return Row(
            name=name,
            images=found.statistics.count,
            fd=Moments.of(found.statistics).distance(target),
            inception_score=found.score.value(),
            precision=overlap.precision,
            recall=overlap.recall,
            class_accuracy=found.accuracy(),
        )

    return tuple(row(name, found) for name, found in seen.items() if name != "reference")


def _notes(
    seen: dict[str, _Seen], extractor: FeatureExtractor, options: EvaluationOptions
) -> list[str]:
    """Warnings about counts."""
    counts = {name: found.statistics.count for name, found in seen.items()}
    notes = []
    unfitted = "reference" if options.statistics is not None else None
    few = {k: n for k, n in counts.items() if n < extractor.width + 1 and k != unfitted}
    if few:
        named = ", ".join(f"{name} {count:,}" for name, count in few.items())
        notes.append(
            f"fewer images ({named}) than the {extractor.width + 1:,} that the {extractor.width:,} "
            "features need: covariances are singular and fd is biased upward; compare only rows "
            "of equal count"
        )
    generated = counts["generated"]
    notes += [
        f"the {name} has {count:,} images, fewer than the {generated:,} generated: its fd is "
        "biased upward beside theirs"
        for name, count in counts.items()
        if name not in ("generated", "reference") and count < generated
    ]
    if max(counts.values()) > options.manifold_images:
        notes.append(
            f"precision and recall use the first {options.manifold_images:,} images of a set"
        )
    return notes
