"""Improved precision and recall: the shares of two sets of images that lie within each other.

A distance is first a matrix product of float32 numbers about the mean, on any device, with a bound
on its rounding error; every comparison within that bound is decided by differences in float64. So
the counts are those of float64, whatever the device, the blocks and the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.machine.compute import Compute
from unmask.machine.processes import gathered, share

BLOCK = 2048
PIECE = 128  # vectors in float64 at once, which stay in a processor's cache
DOUBTFUL = 64  # nearest points, by products in float64, that are compared by differences


class Centred(NamedTuple):
    """Vectors about a centre, ready for products.

    Args:
        rows: ``(N, F)`` float32 or float64.
        squares: ``(N,)``, squared norms.
    """

    rows: Tensor
    squares: Tensor

    @classmethod
    def of(
        cls, features: Tensor, centre: Tensor, kind: torch.dtype, device: torch.device
    ) -> Centred:
        """``(N, F)`` features about ``(F,)``, rounded to a type of numbers."""
        parts = [(part.double() - centre).to(kind) for part in features.split(PIECE)]
        squares = torch.cat([part.double().square().sum(1) for part in parts])
        return cls(torch.cat(parts).to(device), squares.to(kind).to(device))

    def at(self, rows: slice | Tensor) -> Centred:
        """Some of the rows."""
        return Centred(self.rows[rows], self.squares[rows])

    def distances(self, others: Centred) -> Tensor:
        """Squared distances ``(N, M)``."""
        with Compute("float32", self.rows.device).region():
            product = torch.addmm(others.squares, self.rows, others.rows.T, alpha=-2)
        return product.add_(self.squares[:, None])

    def slack(self, others: Centred) -> Tensor:
        """``(N,)`` float64: how much :meth:`distances`, less a squared radius, may be off.

        A dot product of F numbers is off by F units of rounding of the norms' product at most, in
        whatever order it is summed (Higham, "Accuracy and stability of numerical algorithms",
        section 3.1); rounded vectors and sums of two numbers add less than 16.
        """
        unit = torch.finfo(self.rows.dtype).eps / 2
        own, theirs = (sides.squares.cpu().double().sqrt() for sides in (self, others))
        return (self.rows.shape[1] / 2 + 16) * unit * (own + theirs.max()).square()


def by_differences(one: Tensor, rows: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Squared distances in float64 of some rows of a set to some of another.

    Args:
        one: ``(N, F)``.
        rows: ``(R,)``, which of them.
        other: ``(M, F)``.
        where: ``(R, m)``, m of these for each row.

    Returns:
        ``(R, m)``; exactly 0 for equal vectors, and the same from either side.
    """
    pairs = rows.repeat_interleave(where.shape[1]), where.flatten()
    found = [torch.zeros(0, dtype=torch.float64)]
    for i, j in zip(*(part.split(PIECE) for part in pairs), strict=True):
        found.append((one[i].double() - other[j].double()).square().sum(1))
    return torch.cat(found).view_as(where)


class Manifold:
    """The union of balls about points, each reaching to its k-th nearest neighbour.

    Kynkäänniemi et al., arXiv 1904.06991, eq. 1; k = 3 as published. Distances are symmetric, so
    each pair of points is multiplied once.

    Args:
        points: ``(N, F)`` on the CPU.
        k: which neighbour, the point itself not counted, in [1, N - 1].
        device: where products are computed.
        shared: whether all processes of the launcher compute it together; each has all points.
        block: points compared with so many others at a time.

    Raises:
        InputError: for too few points, NaN or infinity.
    """

    def __init__(
        self,
        points: Tensor,
        *,
        k: int = 3,
        device: torch.device | str = "cpu",
        shared: bool = False,
        block: int = BLOCK,
    ) -> None:
        if not 1 <= k < len(points):
            raise InputError(
                f"k={k} nearest neighbours need more than {k} images, there are {len(points)}; "
                "give more images or a smaller k"
            )
        if not points.isfinite().all():
            raise InputError("features hold NaN or infinity; look at the images or the extractor")
        self.features, self.neighbours, self.block = points, k, block
        self.device, self.shared = torch.device(device), shared
        sums = torch.stack([part.double().sum(0) for part in points.split(PIECE)])
        self.centre = sums.sum(0) / len(points)
        self.radii = self._radii(k)
        """``(N,)`` float64, squared."""

    def centred(self, features: Tensor, kind: torch.dtype = torch.float32) -> Centred:
        """Features about this manifold's centre: float32 ones on its device, others on the CPU."""
        device = self.device if kind == torch.float32 else torch.device("cpu")
        return Centred.of(features, self.centre, kind, device)

    def share(self, count: int) -> range:
        """This process's part of so many things, all of them unless work is shared."""
        return share(count) if self.shared else range(count)

    def gathered(self, own: Tensor) -> list[Tensor]:
        """What every process has, or just one's own."""
        return gathered(own) if self.shared else [own]

    def _radii(self, k: int) -> Tensor:
        points, count = self.centred(self.features), len(self.features)
        least, where = self._nearest(points, min(2 * k + 2, count - 1))
        own = torch.tensor(self.share(count), dtype=torch.long)
        least, limit = least[own], least[own, k - 1] + 2 * points.slack(points)[own]
        radii = torch.zeros(count, dtype=torch.float64)
        radii[own] = self._kth(own, where[own].where(least <= limit[:, None], own[:, None]), k)
        # Where more points than were kept may be as near as the k-th, or float32 overflows.
        last, complete = least[:, -1], least.shape[1] == count - 1
        unsure = own[~last.isfinite() if complete else ~(last > limit)]
        for rows, found in self._doubtful(self.features, unsure, torch.zeros(count)):
            radii[rows] = self._kth(rows, found, k)
        return torch.stack(self.gathered(radii)).sum(0)

    def _kth(self, rows: Tensor, where: Tensor, k: int) -> Tensor:
        """The k-th distance of rows among those to other points; a point itself is none."""
        found = by_differences(self.features, rows, self.features, where)
        return found.masked_fill(where == rows[:, None], torch.inf).kthvalue(k, 1).values

    def _nearest(self, points: Centred, most: int) -> tuple[Tensor, Tensor]:
        """``(N, most)`` squared distances to the nearest other points, by products, and these."""
        size = len(self.features), most
        least = torch.full(size, torch.inf, device=self.device)
        where = torch.zeros(size, dtype=torch.long, device=self.device)

        def see(rows: slice, distances: Tensor, first: int) -> None:
            """Keep what is nearer than what was."""
            near, at = distances.topk(min(most, distances.shape[1]), 1, largest=False)
            least[rows], order = torch.cat([least[rows], near], 1).topk(most, 1, largest=False)
            where[rows] = torch.cat([where[rows], at + first], 1).gather(1, order)

        parts = [slice(start, start + self.block) for start in range(0, size[0], self.block)]
        pairs = [(i, j) for i in parts for j in parts if i.start <= j.start]
        for i, j in (pairs[number] for number in self.share(len(pairs))):
            distances = points.at(i).distances(points.at(j))
            if i == j:
                distances.fill_diagonal_(torch.inf)
            else:
                see(j, distances.T, i.start)
            see(i, distances, j.start)
        least, where = (torch.cat(self.gathered(t.cpu()), 1) for t in (least, where))
        least, order = least.topk(most, 1, largest=False)
        return least.double(), where.gather(1, order)

    def _doubtful(
        self, features: Tensor, rows: Tensor, radii: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of rows of features, and for each the points whose balls are nearest, by float64.

        Points that float64 products cannot tell apart lie equally near, so a few of them do.
        """
        if not len(rows):
            return
        points = self.centred(self.features, torch.float64)
        for part in rows.split(self.block // 8):
            distances = self.centred(features[part], torch.float64).distances(points) - radii
            most = min(DOUBTFUL + self.neighbours, len(points.rows))
            yield part, distances.topk(most, 1, largest=False).indices

    def share_covered(self, features: Tensor, gaps: Tensor, slack: Tensor) -> float:
        """Share of ``(M, F)`` features that lie in at least one ball.

        Args:
            features: on the CPU.
            gaps: ``(M,)``, squared distance less squared radius of the ball that is nearest so.
            slack: ``(M,)``, how much the gaps may be off.
        """
        doubtful = (~(gaps.abs() > slack)).nonzero().squeeze(1)
        own = doubtful[torch.tensor(self.share(len(doubtful)), dtype=torch.long)]
        covered = torch.zeros((), dtype=torch.long)
        for rows, where in self._doubtful(features, own, self.radii):
            found = by_differences(features, rows, self.features, where)
            covered += (found <= self.radii[where]).any(1).sum()
        sure = (gaps < -slack).sum()
        return float(sure + torch.stack(self.gathered(covered)).sum()) / len(features)


class PrecisionRecall(NamedTuple):
    """Improved precision and recall, both in [0, 1].

    Args:
        precision: Share of generated images within the manifold of real ones.
        recall: Share of real images within the manifold of generated ones.
    """

    precision: float
    recall: float


def manifold_overlap(real: Manifold, fake: Manifold) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991, eq. 2); each pair is multiplied once."""
    sets = [real.centred(manifold.features) for manifold in (real, fake)]
    radii = [manifold.radii.float().to(real.device) for manifold in (real, fake)]
    gaps = [torch.full_like(found, torch.inf) for found in radii]
    parts = [
        (slice(i, i + real.block), slice(j, j + real.block))
        for i in range(0, len(real.features), real.block)
        for j in range(0, len(fake.features), real.block)
    ]
    for i, j in (parts[number] for number in real.share(len(parts))):
        distances = sets[0].at(i).distances(sets[1].at(j))  # (R, M)
        gaps[1][j] = gaps[1][j].minimum((distances - radii[0][i, None]).amin(0))
        gaps[0][i] = gaps[0][i].minimum((distances - radii[1][j]).amin(1))
    nearest = [torch.stack(real.gathered(gap.cpu())).amin(0).double() for gap in gaps]
    slack = sets[0].slack(sets[1]), sets[1].slack(sets[0])
    return PrecisionRecall(
        real.share_covered(fake.features, nearest[1], slack[1]),
        fake.share_covered(real.features, nearest[0], slack[0]),
    )
