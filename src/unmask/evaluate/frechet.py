"""The Fréchet distance between two Gaussians (Heusel et al., arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from unmask.errors import InputError


def _root(covariance: Tensor) -> Tensor:
    """``(F, r)`` factor A of full column rank with A Aᵀ the covariance, rounding noise dropped."""
    symmetric = (covariance + covariance.T) / 2
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except torch.linalg.LinAlgError:  # the many equal eigenvalues of few images
        values, vectors = (torch.from_numpy(v) for v in np.linalg.eigh(symmetric.numpy()))
    noise = torch.finfo(values.dtype).eps * len(values) * values.abs().max()
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """``|mean1 - mean2|² + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2))`` in float64.

    With cov = A Aᵀ, the trace of the matrix root is the sum of the singular values of A1ᵀ A2:
    the eigenvalues of the symmetric form A1ᵀ cov2 A1 are their squares. Unlike ``scipy.linalg``'s
    ``sqrtm`` of the product, as the published evaluators use, this never leaves the real numbers
    and needs no added diagonal when a covariance is singular.

    Args:
        mean1: ``(F,)``.
        cov1: ``(F, F)``, symmetric, no negative eigenvalue.
        mean2: ``(F,)``.
        cov2: ``(F, F)``.

    Returns:
        At least 0, in squared units of the features.

    Raises:
        InputError: for shapes that do not fit, NaN or infinity.
    """
    width = mean1.shape[0]
    for name, value in {"mean1": mean1, "cov1": cov1, "mean2": mean2, "cov2": cov2}.items():
        shape = (width,) if name.startswith("mean") else (width, width)
        if tuple(value.shape) != shape:
            raise InputError(f"{name} has shape {tuple(value.shape)}, the others need {shape}")
        if not value.isfinite().all():
            raise InputError(f"{name} holds NaN or infinity; look at the features it came from")
    mean1, cov1, mean2, cov2 = (v.to("cpu", torch.float64) for v in (mean1, cov1, mean2, cov2))
    overlap = torch.linalg.svdvals(_root(cov1).T @ _root(cov2)).sum()
    spread = cov1.trace() + cov2.trace() - 2 * overlap
    return max(0.0, ((mean1 - mean2).square().sum() + spread).item())


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
        values = features.detach().to("cpu", torch.float64)
        mean = values.mean(0)
        self._add(values - mean, mean, len(values))

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
        if other.count:
            self.scatter += other.scatter
            self._add(other.mean.new_empty(0, self.width), other.mean, other.count)

    def _add(self, deviations: Tensor, mean: Tensor, count: int) -> None:
        """Count vectors of another mean, given what of their deviations from it is to be added."""
        total, gap = self.count + count, mean - self.mean
        between = gap * math.sqrt(self.count * count / total)
        rows = torch.cat([deviations, between[None]])
        self.scatter.addmm_(rows.T, rows)  # in place: 33 MB at F = 2048
        self.mean = self.mean + gap * (count / total)
        self.count = total

    def covariance(self) -> Tensor:
        """``(F, F)`` float64, the unbiased estimate (divided by N - 1), as ``numpy.cov``.

        Raises:
            InputError: for fewer than two vectors.
        """
        if self.count < 2:
            raise InputError(f"{self.count} images have no covariance; give at least 2")
        return self.scatter / (self.count - 1)
