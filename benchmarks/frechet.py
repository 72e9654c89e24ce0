"""The Fréchet distance of wide features: seconds, and its difference from two other computations.

    python benchmarks/frechet.py [--width 2048] [--report DIR]

Well-conditioned covariances are compared with ``scipy.linalg.sqrtm`` of their product, as the
published evaluators compute it; singular ones of rank 100 that commute with a closed form.
"""

from __future__ import annotations

import time

import numpy as np
import scipy.linalg
import torch
from common import parsed, parser, publish
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.evaluate.frechet import frechet_distance

RANK = 100


def normal(key: str, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(shape, generator=keyed_generator("frechet", key), dtype=torch.float64)


def gaussian(key: str, width: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of 4 F vectors whose scales span a factor of ten."""
    rows = normal(key, 4 * width, width) * torch.logspace(0, 1, width) + normal(
        f"{key} mean", width
    )
    return rows.mean(0), rows.T.cov()


def timed(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Distance and seconds."""
    began = time.perf_counter()
    found = frechet_distance(*one, *other)
    return found, time.perf_counter() - began


def by_sqrtm(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """The same by the matrix root of the product."""
    began = time.perf_counter()
    (m1, c1), (m2, c2) = ((m.numpy(), c.numpy()) for m, c in (one, other))
    root = scipy.linalg.sqrtm(c1 @ c2).real
    found = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * np.trace(root)
    return float(found), time.perf_counter() - began


def singular(width: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], float]:
    """Two Gaussians of rank 100 with half of their directions in common, and their distance."""
    basis = torch.linalg.qr(normal("basis", width, width)).Q
    first, second = torch.zeros(2, width, dtype=torch.float64)
    first[:RANK] = torch.arange(1, RANK + 1)
    second[RANK // 2 : RANK // 2 + RANK] = torch.arange(RANK, 0, -1) * 0.5
    mean = torch.zeros(width, dtype=torch.float64)
    expected = (first.sqrt() - second.sqrt()).square().sum().item() + width
    one, other = (basis * v @ basis.T for v in (first, second))
    return (mean, one), (mean + 1, other), expected


def main() -> None:
    """Measure and print."""
    words = parser(__doc__)
    words.add_argument("--width", type=int, default=2048)
    options = parsed(words)
    one, other = gaussian("one", options.width), gaussian("other", options.width)
    found, seconds = timed(one, other)
    root, root_seconds = by_sqrtm(one, other)
    few, fewer, closed = singular(options.width)
    thin, thin_seconds = timed(few, fewer)
    rows = [
        ["well-conditioned", "scipy.linalg.sqrtm", found, seconds, root_seconds, found / root - 1],
        [f"rank {RANK}", "closed form", thin, thin_seconds, "-", thin / closed - 1],
    ]
    header = ["covariances", "against", "distance", "s", "s of the other", "relative difference"]
    note = f"{options.width} features. Distances in float64; {torch.get_num_threads()} threads."
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
