"""How near a reconstruction is to its image: PSNR and SSIM, as scikit-image defines them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 7  # pixels a side
K1, K2 = 0.01, 0.03


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, higher is nearer.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        target: the same.

    Returns:
        ``(B,)`` float64, infinite for equal images.
    """
    error = _exact(images - target).square().mean((1, 2, 3))
    return -10 * torch.log10(error)


def ssim(images: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), 1 for equal images.

    With a uniform 7x7 window, sample covariances and the mean over channels and over all places
    where the window fits: scikit-image's defaults, which maskgit-pytorch's scores use.

    Args:
        images: ``(B, C, H, W)`` in [0, 1], sides of at least 7.
        target: the same.

    Returns:
        ``(B,)`` float64.
    """
    x, y = _exact(images), _exact(target)
    mean_x, mean_y = _windowed(x), _windowed(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_x = sample * (_windowed(x * x) - mean_x.square())
    var_y = sample * (_windowed(y * y) - mean_y.square())
    covariance = sample * (_windowed(x * y) - mean_x * mean_y)
    likeness = (2 * mean_x * mean_y + K1**2) * (2 * covariance + K2**2)
    scale = (mean_x.square() + mean_y.square() + K1**2) * (var_x + var_y + K2**2)
    return (likeness / scale).mean((1, 2, 3))


def _exact(values: Tensor) -> Tensor:
    """As float64, on the CPU if an accelerator has none."""
    try:
        return values.double()
    except TypeError:
        return values.cpu().double()


def _windowed(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW, stride=1)
