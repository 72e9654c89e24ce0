"""Scores of a set of images besides the Fréchet distance."""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError


def inception_score(probs: Tensor) -> float:
    """``exp(E KL(p(y|x) || p(y)))`` of ``(N, K)`` predictions, N at least 1, in [1, K].

    Salimans et al., arXiv 1606.03498. The mean divergence equals the entropy of the mean prediction
    minus the mean entropy of the predictions.
    """
    p = probs.double()
    mean = p.mean(0)
    return math.exp(torch.xlogy(p, p).sum().item() / len(p) - torch.xlogy(mean, mean).sum().item())


class InceptionScore:
    """Inception score over splits that chance puts together, whatever the order of the images.

    ADM's evaluator scores consecutive images together: of a set in class order a split shows few
    classes, and its score cannot exceed their number. Here the images are shuffled first, by a
    permutation that their number alone decides; so a set in class order and the same set in another
    order score alike, up to the chance of the splits. Up to one split nothing is shuffled. All
    predictions are kept, 4 K bytes an image.

    Args:
        split: images that are scored together, the last ones perhaps fewer; ADM's evaluator takes
            5,000, which at 50,000 images are the usual ten. None means all.
    """

    def __init__(self, split: int | None = None) -> None:
        self.split = split
        self.probs: list[Tensor] = []

    def update(self, probs: Tensor) -> None:
        """Add predictions ``(B, K)``.

        Raises:
            InputError: unless they are probabilities that sum to 1 over K.
        """
        p = probs.detach().cpu()
        if p.ndim != 2 or not ((p.double().sum(1) - 1).abs() < 1e-3).all() or (p < 0).any():
            raise InputError(
                f"predictions of shape {tuple(probs.shape)} must be probabilities (B, K) that "
                "sum to 1 a row; apply a softmax to logits"
            )
        self.probs.append(p.float())

    def values(self) -> list[float]:
        """The score of each split, in [1, K]."""
        probs = torch.cat(self.probs) if self.probs else torch.zeros(0, 1)
        count, order = len(probs), torch.arange(len(probs))
        if self.split is not None and count > self.split:
            order = torch.randperm(count, generator=keyed_generator("inception score", count))
        return [inception_score(probs[r]) for r in order.split(self.split or count) if count]

    def value(self) -> float:
        """The mean over the splits.

        Raises:
            InputError: before any image was added.
        """
        if not (scores := self.values()):
            raise InputError("0 images have no inception score; give at least 1")
        return statistics.fmean(scores)


def check_labels(labels: Tensor, count: int, classes: int) -> None:
    """Check that each of ``count`` images has a label in [0, classes).

    Raises:
        InputError: when that does not hold.
    """
    if labels.shape != (count,) or not count:
        raise InputError(f"{labels.numel()} labels for {count} images; give one an image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels span {low} to {high}, the classifier knows [0, {classes}); "
            "use a classifier of the same classes"
        )


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """``(N,)`` bool, whether the highest score of each image is that of its label.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)`` int64 in [0, K).

    Raises:
        InputError: for another number of labels, none at all, or labels out of range.
    """
    check_labels(labels, *logits.shape)
    return logits.argmax(1) == labels.to(logits.device)


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images that are :func:`correct`."""
    return correct(logits, labels).double().mean().item()


class RandomRows:
    """At most ``most`` rows of a stream, any as likely as any other; all of them if they fit.

    Rows stay in their order. Which of them are kept depends on their numbers alone; memory holds at
    most twice as many.

    Args:
        most: rows wanted, at least 0.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._rows: list[Tensor] = []
        self._luck: list[Tensor] = []
        self._held = 0
        self._generator = keyed_generator("kept rows")

    def add(self, rows: Tensor) -> None:
        """See ``(B, F)`` more rows."""
        if not self.most:
            return
        self._rows.append(rows)
        self._luck.append(torch.rand(len(rows), generator=self._generator, dtype=torch.float64))
        self._held += len(rows)
        if self._held > 2 * self.most:
            self._forget()

    def _forget(self) -> None:
        """Let go of all but the rows with the lowest numbers."""
        luck = torch.cat(self._luck)
        kept = luck.argsort()[: self.most].sort().values
        self._rows, self._luck = [torch.cat(self._rows)[kept]], [luck[kept]]
        self._held = len(kept)

    def kept(self) -> Tensor:
        """``(N, F)``, N at most ``most``; ``(0, 0)`` where none was added."""
        if self._held > self.most:
            self._forget()
        return torch.cat(self._rows) if self._rows else torch.zeros(0, 0)
