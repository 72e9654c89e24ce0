"""Score generated images against real ones, beside the floors that no sampler can pass."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Annotated, NamedTuple

from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.classifier import TrainedClassifier
from unmask.evaluate.features import FeatureExtractor
from unmask.evaluate.frechet import RunningStatistics
from unmask.evaluate.image_sets import ImageBatch, as_batches
from unmask.evaluate.inception import Inception
from unmask.evaluate.reference import Moments, ReferenceStatistics
from unmask.evaluate.report import SCORES, Choices, Report, Row
from unmask.evaluate.scores import InceptionScore, Manifold, RandomRows, correct, manifold_overlap
from unmask.ranges import Between

Batches = Iterable[Tensor | ImageBatch]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Choices):
    """How sets are compared."""

    manifold_images: Annotated[int, Between(2, 10**6)] = 50_000
    """Images of a row that precision and recall keep in memory, chosen by chance if there are
    more."""
    manifold_reference: Annotated[int, Between(2, 10**6)] = 10_000
    """Images of the reference that precision and recall keep, likewise; ADM's reference files hold
    10,000."""
    statistics: ReferenceStatistics | None = None
    """What fd and sfd compare with, and not the reference set; precision and recall keep that."""
    reference: str | None = None
    """Where the reference set came from, if that is to be stated; FID needs it or statistics."""

    def __post_init__(self) -> None:
        """Reject values without a manifold."""
        super().__post_init__()
        kept = min(self.manifold_images, self.manifold_reference)
        if self.neighbours >= kept:
            raise InputError(
                f"neighbours={self.neighbours} must lie in [1, {kept}), the smaller of "
                "manifold_images and manifold_reference"
            )


class Measured(NamedTuple):
    """What the networks say about consecutive images; on the CPU."""

    pooled: Tensor
    """``(B, F)`` float32."""
    probs: Tensor | None = None
    """``(B, K)`` float32."""
    spatial: Tensor | None = None
    """``(B, S)`` float32."""
    correct: Tensor | None = None
    """``(B,)`` bool, whether the classifier names the label."""


def measured(
    batches: Batches, extractor: FeatureExtractor, classifier: TrainedClassifier | None = None
) -> Iterator[Measured]:
    """Features of images, batch by batch, each computed when it is asked for.

    Args:
        batches: uint8 ``(B, C, H, W)``, with labels where the classifier is to judge.
        extractor: gives the features.
        classifier: judges batches with labels.

    Raises:
        InputError: for other images, or labels out of range.
    """
    for images, labels in as_batches(batches):
        images = images.contiguous()  # sums over another memory order round differently
        found = [None if t is None else t.float().cpu() for t in extractor(images)]
        assert found[0] is not None, "pooled features are never missing"
        named = None
        if classifier is not None and labels is not None:
            named = correct(classifier.logits(images).cpu(), labels.cpu())
        yield Measured(found[0], found[1], found[2], named)


def limited(found: Iterable[Measured], limit: int | None) -> Iterator[Measured]:
    """The first ``limit`` images, the last batch cut; None means all."""
    for batch in found:
        if limit is not None and len(batch.pooled) >= limit:
            held = {name: t for name, t in batch._asdict().items() if t is not None}
            yield Measured(**{name: t[:limit] for name, t in held.items()})
            return
        limit = None if limit is None else limit - len(batch.pooled)
        yield batch


class Tally:
    """What one pass over a set leaves behind, whatever the order of its images.

    Memory holds the features that are kept and all predictions; the rest is constant.

    Args:
        keep: images whose features are kept for precision and recall, chosen by chance.
        split: images an inception score is taken over.
    """

    def __init__(self, *, keep: int = 0, split: int | None = None) -> None:
        self.count, self.kept = 0, RandomRows(keep)
        self.running: dict[str, RunningStatistics] = {}
        self.score = InceptionScore(split)
        self.judged, self.correct = 0, 0

    @classmethod
    def of(cls, found: Iterable[Measured], *, keep: int = 0, split: int | None = None) -> Tally:
        """That of a whole set."""
        tally = cls(keep=keep, split=split)
        for batch in found:
            tally.add(batch)
        return tally

    def add(self, found: Measured) -> None:
        """Take in a batch.

        Raises:
            InputError: for features with NaN or of another width, or no probabilities.
        """
        for name, features in (("pooled", found.pooled), ("spatial", found.spatial)):
            if features is not None:
                self.running.setdefault(name, RunningStatistics(features.shape[1])).update(features)
        if found.probs is not None:
            self.score.update(found.probs)
        self.kept.add(found.pooled)
        self.count += len(found.pooled)
        if found.correct is not None:
            self.judged += len(found.correct)
            self.correct += int(found.correct.sum())

    def statistics(self, source: str) -> ReferenceStatistics:
        """Means and covariances.

        Raises:
            InputError: for fewer than 2 images.
        """
        if self.count < 2:
            raise InputError(f"{source}: {self.count} images have no covariance; give at least 2")
        moments = {name: Moments.of(running) for name, running in self.running.items()}
        return ReferenceStatistics(source=source, images=self.count, **moments)

    def accuracy(self) -> float | None:
        """Class accuracy if every image was judged."""
        return self.correct / self.count if self.judged == self.count else None


def measure_statistics(
    batches: Batches, extractor: FeatureExtractor, *, source: str
) -> ReferenceStatistics:
    """The statistics of a set of images, read once.

    Args:
        batches: uint8 ``(B, C, H, W)``.
        extractor: the network.
        source: name of the set, for a report.

    Raises:
        InputError: for fewer than 2 images or features with NaN.
    """
    return Tally.of(measured(batches, extractor)).statistics(source)


def evaluate(
    generated: Batches,
    reference: Batches | None,
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
        reference: real images that every row is compared with; None leaves out precision and
            recall and needs ``options.statistics``.
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
    check_width(options.statistics, extractor)
    given = {"reference": reference, "generated": generated}
    given |= {"reconstruction floor": reconstructed, "real floor": real}
    opened = {name: _opened(name, b) for name, b in given.items() if b is not None}
    channels, height, width = next(iter(opened.values()))[0].images.shape[1:]
    shape = (channels, height, width)
    for name, (first, _) in opened.items():
        list(of_shape(name, [first], shape))
    found = {
        name: measured(of_shape(name, batches, shape), extractor, classifier)
        for name, (_, batches) in opened.items()
    }
    return compare(
        [found.pop("generated")],
        found.pop("reference", None),
        found,
        extractor=extractor,
        shape=shape,
        classifier=None if classifier is None else classifier.describe(),
        options=options,
    )


def compare(
    generated: Sequence[Iterable[Measured]],
    reference: Iterable[Measured] | None,
    floors: Mapping[str, Iterable[Measured]],
    *,
    extractor: FeatureExtractor,
    shape: tuple[int, int, int],
    options: EvaluationOptions,
    classifier: str | None = None,
) -> Report:
    """:func:`evaluate` of features that are measured already, or are when they are read.

    Args:
        generated: one set, or several of other seeds, whose mean and spread are reported.
        reference: real images, or None.
        floors: rows under the generated ones, by name.
        extractor: what measured them all.
        shape: channels, height and width of the images.
        options: the same for all rows.
        classifier: who judged the classes.
    """
    split, counts = options.inception_split, {}
    known, manifold = options.statistics, None
    if reference is not None:
        tally = Tally.of(reference, keep=options.manifold_reference, split=split)
        counts["reference"] = check_enough("reference", tally.count, options.neighbours)
        manifold = Manifold(tally.kept.kept(), k=options.neighbours)
        known = known or tally.statistics("reference")
    if known is None:
        raise InputError("nothing to compare with; give reference images or statistics")

    def row(name: str, found: Iterable[Measured], limit: int | None = None) -> Row:
        """Measure one set and compare it."""
        tally = Tally.of(limited(found, limit), keep=options.manifold_images, split=split)
        counts[name] = check_enough(name, tally.count, options.neighbours)
        return _row(name, tally, known, manifold)

    made = [row("generated", found) for found in generated]
    rows = (_mean(made), *(row(name, f, counts["generated"]) for name, f in floors.items()))
    stated = options.reference if options.statistics is None else options.statistics.source
    choices = {field.name: getattr(options, field.name) for field in fields(Choices)}
    choices["notes"] = (*_notes(counts, extractor, options), *options.notes)
    return Report(
        **choices,
        rows=rows,
        repeats=tuple(made) if len(made) > 1 else (),
        extractor=extractor.name,
        identity=extractor.identity,
        reference_images=counts.get("reference", 0),
        image_shape=shape,
        manifold_images=(options.manifold_images, options.manifold_reference),
        classifier=classifier,
        statistics=stated,
        inception=isinstance(extractor, Inception) and extractor.published,
    )


def check_width(statistics: ReferenceStatistics | None, extractor: FeatureExtractor) -> None:
    """Refuse statistics of another network than the extractor.

    Raises:
        InputError: naming both widths.
    """
    if statistics is not None and len(statistics.pooled.mean) != extractor.width:
        raise InputError(
            f"{statistics.source} holds statistics of width {len(statistics.pooled.mean)}, "
            f"{extractor.name} gives {extractor.width}; use statistics of the same network"
        )


def _opened(name: str, source: Batches) -> tuple[ImageBatch, Iterator[ImageBatch]]:
    """The first batch, and all batches including it."""
    batches = (batch for batch in as_batches(source) if len(batch.images))
    first = next(batches, None)
    if first is None:
        raise InputError(f"the set {name!r} holds no images; give at least 2")
    return first, chain([first], batches)


def of_shape(name: str, batches: Batches, shape: tuple[int, int, int]) -> Iterator[ImageBatch]:
    """The batches, each checked.

    Raises:
        InputError: naming the set, for images of another shape.
    """
    for batch in as_batches(batches):
        if tuple(batch.images.shape[1:]) != shape:
            raise InputError(
                f"the set {name!r} has images of shape {tuple(batch.images.shape[1:])}, wanted is "
                f"{shape} (channels, height, width) throughout; resize or convert them"
            )
        yield batch


def check_enough(name: str, count: int, neighbours: int) -> int:
    """The number of images of a set, if the scores can be taken of so many.

    Raises:
        InputError: when they are too few.
    """
    least = max(2, neighbours + 1)
    if count < least:
        raise InputError(
            f"the set {name!r} holds {count} images, the scores need at least {least}; "
            "give more images"
        )
    return count


def _row(name: str, found: Tally, target: ReferenceStatistics, real: Manifold | None) -> Row:
    measured = found.statistics(name)
    overlap = None
    if real is not None:
        overlap = manifold_overlap(real, Manifold(found.kept.kept(), k=real.neighbours))
    scores = found.score.values()
    return Row(
        name=name,
        images=found.count,
        fd=measured.fid(target),
        sfd=measured.sfid(target),
        inception_score=statistics.fmean(scores) if scores else None,
        inception_deviation=statistics.pstdev(scores) if scores else None,
        precision=overlap and overlap.precision,
        recall=overlap and overlap.recall,
        class_accuracy=found.accuracy(),
    )


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of repeated rows, with the deviation of each score (divided by K - 1)."""
    if len(rows) == 1:
        return rows[0]
    columns = {score: [getattr(row, score) for row in rows] for score in SCORES}
    known = {score: column for score, column in columns.items() if None not in column}
    return replace(
        rows[0],
        **{score: statistics.fmean(column) for score, column in known.items()},  # type: ignore
        spread={score: statistics.stdev(column) for score, column in known.items()},
    )


def _notes(
    counts: dict[str, int], extractor: FeatureExtractor, options: EvaluationOptions
) -> list[str]:
    """Warnings about counts."""
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
    return notes
