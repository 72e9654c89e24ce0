"""Precision and recall by their definition, whatever the numbers that products are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gloo import joined
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.manifold import Manifold, PrecisionRecall, manifold_overlap
from unmask.machine.processes import part


def precision_recall(real: Tensor, fake: Tensor, **options: Any) -> PrecisionRecall:
    return manifold_overlap(Manifold(real, **options), Manifold(fake, **options))


def normal(key: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=keyed_generator(0, key))


def covered_by_hand(points: Tensor, others: Tensor, k: int) -> list[bool]:
    """Definition, one pair at a time in float64."""
    points, others = points.double(), others.double()
    radii = [sorted((p - q).norm().item() for q in points)[k] for p in points]
    return [any((x - p).norm() <= r for p, r in zip(points, radii, strict=True)) for x in others]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [4, 1024])
def test_precision_and_recall_follow_their_definition(k: int, block: int) -> None:
    real, fake = normal("real", 30, 3), normal("fake", 23, 3) * 1.3 + 0.4
    found = precision_recall(real, fake, k=k, block=block)
    inside = covered_by_hand(real, fake, k)
    reached = covered_by_hand(fake, real, k)
    assert 0 < sum(inside) < 23
    assert 0 < sum(reached) < 30
    assert found.precision == pytest.approx(sum(inside) / 23)
    assert found.recall == pytest.approx(sum(reached) / 30)


def test_constructed_sets() -> None:
    real = normal("real", 40, 4)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    # A sampler that knows one of two far clusters: all of it is real, half of reality is reached.
    two = torch.cat([real, real + 100])
    assert precision_recall(two, real) == (1, 0.5)
    assert precision_recall(real, two) == (0.5, 1)


def by_definition(real: Tensor, fake: Tensor, k: int = 3) -> PrecisionRecall:
    """Every pair by differences in float64."""

    def squared(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack([(row.double() - other.double()).square().sum(1) for row in one])

    def covered(points: Tensor, others: Tensor) -> float:
        radii = squared(points, points).sort(1).values[:, k]
        return (squared(others, points) <= radii).any(1).double().mean().item()

    return PrecisionRecall(covered(real, fake), covered(fake, real))


def lattice(key: str, count: int, width: int) -> Tensor:
    """Points of a grid: distances are integers, so most balls end exactly on a point."""
    return normal(key, count, width).round()


HARD = {
    "ties": (lattice("a", 300, 4), lattice("b", 260, 4)),
    "ties far away": (lattice("a", 200, 4) + 2**20, lattice("b", 200, 4) + 2**20),
    "duplicates": (normal("a", 40, 16).repeat(5, 1), normal("a", 40, 16).repeat(4, 1)),
    "all the same": (torch.full((150, 8), 0.3), torch.full((120, 8), 0.3)),
    "one picture": (normal("a", 150, 8), torch.full((120, 8), 0.3)),
    "tight clusters far apart": tuple(
        torch.cat([normal(key, 90, 64) * 1e-4 - 5, normal(key + "2", 90, 64) * 1e-4 + 5])
        for key in "ab"
    ),
    "an outlier": (normal("a", 150, 16), torch.cat([normal("b", 99, 16), torch.ones(1, 16) * 1e4])),
    "beyond float32": (normal("a", 90, 16) * 1e25, normal("b", 80, 16) * 1e25),
    "next to nothing": (normal("a", 90, 16) * 1e-25, normal("b", 80, 16) * 1e-25),
    "few beyond float32": (normal("a", 4, 3) * 1e25, normal("b", 5, 3) * 1e25),
    "few": (normal("a", 4, 3), normal("b", 5, 3)),
}


@pytest.mark.parametrize("block", [64, 2048])
@pytest.mark.parametrize("name", HARD)
def test_every_count_is_that_of_float64(name: str, block: int) -> None:
    real, fake = HARD[name]
    found = precision_recall(real, fake, block=block)
    assert found == by_definition(real, fake)


@pytest.mark.parametrize("step", [1e-7, 1e-6, 1e-5])
def test_points_next_to_the_border_of_a_ball(step: float) -> None:
    """Just inside and just outside, by less than products in float32 can tell."""
    real = normal("real", 64, 512)
    radii = Manifold(real).radii.sqrt()[:, None]
    ways = torch.nn.functional.normalize(normal("ways", 64, 512).double(), dim=1) * radii
    fake = torch.cat([real + ways * (1 + sign * step) for sign in (-1, 0, 1)])
    found = precision_recall(real, fake)
    assert found == by_definition(real, fake)
    assert 1 / 3 < found.precision < 1


def test_radii_do_not_depend_on_the_blocks() -> None:
    points = torch.cat([lattice("a", 150, 5), normal("b", 150, 5)])
    one, other = (Manifold(points, block=block).radii for block in (16, 4096))
    assert torch.equal(one, other)


def test_distances_survive_a_large_offset() -> None:
    real, fake = normal("real", 30, 3).double(), normal("fake", 30, 3).double()
    assert precision_recall(real + 1e6, fake + 1e6) == precision_recall(real, fake)


def test_manifolds_need_neighbours_and_numbers() -> None:
    with pytest.raises(InputError, match="k=3"):
        Manifold(normal("real", 3, 2))
    with pytest.raises(InputError, match="NaN"):
        Manifold(normal("real", 9, 2) * float("nan"))


def test_processes_share_the_pairs() -> None:
    """Each has a part of the blocks, of the radii and of the doubtful rows."""
    cases = [HARD[name] for name in ("ties", "tight clusters far apart", "few")]
    alone = [precision_recall(real, fake) for real, fake in cases]

    def one(rank: int) -> None:
        found = [precision_recall(real, fake, block=32, shared=True) for real, fake in cases]
        assert found == alone
        part()

    assert joined(3, one) == [0] * 3
