"""Features of images, and the totals that scores are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.classifier import TrainedClassifier
from unmask.evaluate.features import FeatureExtractor
from unmask.evaluate.frechet import RunningStatistics
from unmask.evaluate.image_batch import Batches, as_batches
from unmask.evaluate.reference import Moments, ReferenceStatistics
from unmask.evaluate.scores import InceptionScore, RandomRows, correct


class Measured(NamedTuple):
    """Features, predictions and judgements of consecutive images; on the CPU.

    Args:
        pooled: ``(B, F)`` float32.
        probs: ``(B, K)`` float32.
        spatial: ``(B, S)`` float32.
        correct: ``(B,)`` bool, whether the classifier names the label.
    """

    pooled: Tensor
    probs: Tensor | None = None
    spatial: Tensor | None = None
    correct: Tensor | None = None


def measure(
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
    left = math.inf if limit is None else limit
    for batch in found:
        if len(batch.pooled) >= left:
            held = {name: t for name, t in batch._asdict().items() if t is not None}
            yield Measured(**{name: t[: int(left)] for name, t in held.items()})
            return
        left -= len(batch.pooled)
        yield batch


class RunningScores:
    """Running totals of one pass over a set, whatever the order of its images.

    They are moments of the features, predictions for the inception score, class accuracy, and the
    feature vectors that precision and recall compare. Memory holds these vectors and all
    predictions; the rest is constant.

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
    def of(
        cls, found: Iterable[Measured], *, keep: int = 0, split: int | None = None
    ) -> RunningScores:
        """Take in a whole set."""
        scores = cls(keep=keep, split=split)
        for batch in found:
            scores.add(batch)
        return scores

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
    return RunningScores.of(measure(batches, extractor)).statistics(source)
