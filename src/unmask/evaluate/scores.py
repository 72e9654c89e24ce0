"""Scores of a set of images besides the Fréchet distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError


class RunningInceptionScore:
    """``exp(E KL(p(y|x) || p(y)))`` in constant memory (Salimans et al., arXiv 1606.03498).

    The mean divergence equals the entropy of the mean prediction minus the mean entropy of the
    predictions, and both are sums over images.
    """

    def __init__(self) -> None:
        self.count = 0
        self.negative_entropy = 0.0
        self.total: Tensor | None = None

    def update(self, probs: Tensor) -> None:
        """Add predictions ``(B, K)`` that sum to 1 over K.

        Raises:
            InputError: when they do not.
        """
        p = probs.detach().to("cpu", torch.float64)
        if p.ndim != 2 or not ((p.sum(1) - 1).abs() < 1e-3).all() or (p < 0).any():
            raise InputError(
                f"predictions of shape {tuple(probs.shape)} must be probabilities (B, K) that "
                "sum to 1 a row; apply a softmax to logits"
            )
        self.count += len(p)
        self.negative_entropy += torch.xlogy(p, p).sum().item()
        self.total = p.sum(0) if self.total is None else self.total + p.sum(0)

    def value(self) -> float:
        """The score, in [1, K].

        Raises:
            InputError: before any image was added.
        """
        if self.total is None or not self.count:
            raise InputError("0 images have no inception score; give at least 1")
        mean = self.total / self.count
        return math.exp(self.negative_entropy / self.count - torch.xlogy(mean, mean).sum().item())


def inception_score(probs: Tensor, splits: int = 1) -> tuple[float, float]:
    """Mean and standard deviation of the score over contiguous splits of nearly equal size.

    Published numbers take the mean over splits of 5,000 images (ADM's evaluator) or 10 splits.
    Images in class order need to be shuffled first, or each split sees few classes.

    Args:
        probs: ``(N, K)``, rows sum to 1.
        splits: number of parts, in [1, N].

    Returns:
        ``(mean, deviation)``; the deviation (divided by the number of splits) is 0 for one split.

    Raises:
        InputError: for another number of splits or rows that do not sum to 1.
    """
    if not 1 <= splits <= len(probs):
        raise InputError(f"splits={splits} must lie in [1, {len(probs)}], the number of images")
    values = torch.empty(splits, dtype=torch.float64)
    for index, part in enumerate(probs.tensor_split(splits)):
        score = RunningInceptionScore()
        score.update(part)
        values[index] = score.value()
    return values.mean().item(), values.std(correction=0).item()


class Manifold:
    """The union of balls about points, each reaching to its k-th nearest neighbour.

    Kynkäänniemi et al., arXiv 1904.06991, eq. 1; k = 3 as published.

    Args:
        points: ``(N, F)``.
        k: which neighbour, the point itself not counted, in [1, N - 1].
        block: rows compared at a time; memory is block x N numbers.

    Raises:
        InputError: for too few points, NaN or infinity.
    """

    def __init__(self, points: Tensor, *, k: int = 3, block: int = 1024) -> None:
        if not 1 <= k < len(points):
            raise InputError(
                f"k={k} nearest neighbours need more than {k} images, there are {len(points)}; "
                "give more images or a smaller k"
            )
        if not points.isfinite().all():
            raise InputError("features hold NaN or infinity; look at the images or the extractor")
        # Distances by matrix products cancel far from the origin: float64, about the mean.
        self.centre = points.double().mean(0)
        self.points = points.double() - self.centre
        self.block = block
        starts = range(0, len(points), block)
        self.radii = torch.cat([self._radii(start, k) for start in starts])
        """``(N,)``, squared."""

    def _distances(self, rows: Tensor) -> Tensor:
        """Squared distances ``(R, N)`` of centred rows to the points."""
        product = torch.addmm(self.points.square().sum(1), rows, self.points.T, alpha=-2)
        return (product + rows.square().sum(1, keepdim=True)).clamp(min=0)

    def _radii(self, start: int, k: int) -> Tensor:
        distances = self._distances(self.points[start : start + self.block])
        distances.diagonal(start).fill_(torch.inf)
        return distances.kthvalue(k, dim=1).values

    def covers(self, points: Tensor) -> Tensor:
        """``(M,)`` bool, whether each of ``(M, F)`` points lies in at least one ball."""
        parts = (points.double() - self.centre).split(self.block)
        return torch.cat([(self._distances(rows) <= self.radii).any(1) for rows in parts])


class PrecisionRecall(NamedTuple):
    """Both in [0, 1]."""

    precision: float
    """Share of generated images within the manifold of real ones."""
    recall: float
    """Share of real images within the manifold of generated ones."""


def manifold_overlap(real: Manifold, fake: Manifold) -> PrecisionRecall:
    """Precision and recall of two manifolds that are at hand already."""
    precision = real.covers(fake.points + fake.centre).double().mean().item()
    recall = fake.covers(real.points + real.centre).double().mean().item()
    return PrecisionRecall(precision, recall)


def precision_recall(
    real: Tensor, fake: Tensor, *, k: int = 3, block: int = 1024
) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991, eq. 2).

    Args:
        real: ``(N, F)`` features.
        fake: ``(M, F)`` features.
        k: neighbour that sets a ball's radius.
        block: rows compared at a time, which bounds the memory.

    Raises:
        InputError: for widths that differ, or fewer than k + 1 images in a set.
    """
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"features of width {real.shape[1]} and {fake.shape[1]}; use one extractor for both"
        )
    return manifold_overlap(Manifold(real, k=k, block=block), Manifold(fake, k=k, block=block))


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose highest score is that of their label.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)`` int64 in [0, K).

    Raises:
        InputError: for another number of labels, none at all, or labels out of range.
    """
    if labels.shape != logits.shape[:1] or not len(labels):
        raise InputError(f"{labels.numel()} labels for {len(logits)} images; give one an image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise InputError(
            f"labels span {low} to {high}, the classifier knows [0, {logits.shape[1]}); "
            "use a classifier of the same classes"
        )
    return (logits.argmax(1) == labels.to(logits.device)).double().mean().item()
