"""Mean and covariance of features that are seen once, batch by batch, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.errors import InputError


class RunningStatistics:
    """First and second moments in constant memory, mergeable across batches and processes.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979): deviations are summed about the running mean, so nothing large cancels.

    Args:
        width: F, numbers a feature vector.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)
        """``(F, F)``, the sum of outer products of deviations from the mean."""

    def update(self, features: Tensor) -> None:
        """Add a batch.

        Args:
            features: ``(B, F)``, any float type.

        Raises:
            InputError: for another width, NaN or infinity; nothing is added then.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise InputError(
                f"features of shape {tuple(features.shape)} do not fit statistics of width "
                f"{self.width}; use one extractor throughout"
            )
        if not features.isfinite().all():
            bad = int((~features.isfinite()).any(1).sum())
            raise InputError(
                f"{bad} of {len(features)} feature vectors hold NaN or infinity; "
                "look at the images or the extractor's weights"
            )
        if not len(features):
            return
        batch = RunningStatistics(self.width)
        values = features.detach().to("cpu", torch.float64)
        batch.count, batch.mean = len(values), values.mean(0)
        centred = values - batch.mean
        batch.scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: RunningStatistics) -> None:
        """Add everything that ``other`` has seen.

        Raises:
            InputError: when its width differs.
        """
        if other.width != self.width:
            raise InputError(
                f"statistics of width {other.width} do not merge with width {self.width}; "
                "use one extractor for both"
            )
        total = self.count + other.count
        if not total:
            return
        gap = other.mean - self.mean
        self.scatter += other.scatter + gap.outer(gap) * (self.count * other.count / total)
        self.mean = self.mean + gap * (other.count / total)
        self.count = total

    def covariance(self) -> Tensor:
        """``(F, F)`` float64, the unbiased estimate (divided by N - 1), as ``numpy.cov``.

        Raises:
            InputError: for fewer than two vectors.
        """
        if self.count < 2:
            raise InputError(f"{self.count} images have no covariance; give at least 2")
        return self.scatter / (self.count - 1)
