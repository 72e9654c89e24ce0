"""The Fréchet distance between two Gaussians (Heusel et al., arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

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
