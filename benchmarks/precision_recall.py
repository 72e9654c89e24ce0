"""Precision and recall of a row of images at n, 2n, 4n: CPU seconds, exponent, against float64.

    python benchmarks/precision_recall.py [--count 50000] [--report DIR]

A row has n images, the reference a fifth as many; what is timed is the row's part: its radii and
both coverages. Features are made up: 2,048 numbers, of 300 directions of falling weight with noise,
cut off at 0, as averages of a network's last layer are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import parsed, parser, publish
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.evaluate.manifold import Manifold, PrecisionRecall, manifold_overlap

WIDTH, DIRECTIONS, SHARE = 2048, 300, 5
AGREED = 4000  # images compared with float64


def features(key: str, count: int, shift: float = 0.0) -> Tensor:
    """``(count, 2048)`` float32."""
    ways = torch.randn(DIRECTIONS, WIDTH, generator=keyed_generator("ways"))
    ways *= torch.linspace(2, 0.1, DIRECTIONS)[:, None] / DIRECTIONS**0.5
    stream = keyed_generator("features", key)
    found = torch.randn(count, DIRECTIONS, generator=stream) @ ways + shift
    return found.add_(torch.randn(count, WIDTH, generator=stream), alpha=0.1).relu_()


def prepare(count: int, folder: Path) -> Callable[[], PrecisionRecall]:
    """A row of so many images and its reference; the call takes the row's precision and recall."""
    real = Manifold(features("real", max(8, count // SHARE)))
    fake = features("fake", count, shift=0.05)
    return lambda: manifold_overlap(real, Manifold(fake))


def in_float64(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Products in float64, block by block, each pair twice."""

    def distances(rows: Tensor, points: Tensor) -> Tensor:
        found = torch.addmm(points.square().sum(1), rows, points.T, alpha=-2)
        return found + rows.square().sum(1, keepdim=True)

    def radii(points: Tensor) -> Tensor:
        parts = points.split(1024)
        return torch.cat([distances(p, points).kthvalue(k + 1, dim=1).values for p in parts])

    def covered(points: Tensor, around: Tensor) -> float:
        reach = radii(points)
        inside = [(distances(p, points) <= reach).any(1) for p in around.split(1024)]
        return torch.cat(inside).double().mean().item()

    one, other = (points.double() - real.double().mean(0) for points in (real, fake))
    return PrecisionRecall(covered(one, other), covered(other, one))


def cpu_seconds(call: Callable[[], PrecisionRecall]) -> tuple[PrecisionRecall, float]:
    """What a call gives, and the process time it took."""
    began = time.process_time()
    found = call()
    return found, time.process_time() - began


def main() -> None:
    """Measure and print."""
    words = parser(__doc__)
    words.add_argument("--count", type=int, default=50_000, help="images of the largest row")
    options = parsed(words)
    real, fake = features("real", AGREED // SHARE), features("fake", AGREED, shift=0.05)
    exact, slow = cpu_seconds(lambda: in_float64(real, fake))
    same, fast = cpu_seconds(lambda: manifold_overlap(Manifold(real), Manifold(fake)))
    rows, costs = [], []
    for count in (options.count // 4, options.count // 2, options.count):
        found, cost = cpu_seconds(prepare(count, Path()))
        costs.append(cost)
        rows.append([count, count // SHARE, found.precision, found.recall, cost])
    sizes = [math.log(row[0]) for row in rows]
    exponent = statistics.linear_regression(sizes, [*map(math.log, costs)]).slope
    note = (
        f"Exponent {exponent:.2f}. {AGREED} images against {AGREED // SHARE}, radii of both sides "
        f"counted: {fast:.1f} CPU s, by float64 throughout {slow:.1f}; shares "
        f"{'equal to the last image' if same == exact else f'{same} and {exact}'}."
    )
    header = ["images", "reference", "precision", "recall", "CPU s of the row"]
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
