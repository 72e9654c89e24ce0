"""Mixup and cutmix: two images in one, and a target that names both.

``G`` groups of ``M`` images each mix among themselves, the first with the last and so on. A group
plays the part of one process's batch in the source, so the mixing does not depend on the number of
processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batches import ImageBatches, MicroBatch
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.ranges import Between, Ranged


@dataclass(frozen=True, kw_only=True)
class Mixing(Ranged, path="mixing"):
    """Mixup and cutmix of training images (timm's batch mode, as MAGE fine-tunes)."""

    mixup: Annotated[float, Between(0, 4)] = 0.8
    """Alpha of mixup's Beta(alpha, alpha), 0.05 or more; 0 means no mixup."""
    cutmix: Annotated[float, Between(0, 4)] = 1.0
    """Alpha of cutmix's Beta(alpha, alpha), 0.05 or more; 0 means no cutmix."""
    switch: Annotated[float, Between(0, 1)] = 0.5
    """Probability of cutmix, and not mixup, where both are on."""
    group: Annotated[int, Between(2, 10**6)] = 32
    """Images that share one mixing coefficient; an even number that divides every micro-batch."""

    def __post_init__(self) -> None:
        """Reject values that mix nothing."""
        super().__post_init__()
        for name in ("mixup", "cutmix"):
            if 0 < getattr(self, name) < 0.05:
                raise InputError(f"mixing.{name}={getattr(self, name)} must be 0 or in [0.05, 4]")
        if self.group % 2:
            raise InputError(f"mixing.group={self.group} must be an even number from 2")

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, images: int) -> None:
        """Refuse a micro-batch that groups do not divide.

        Raises:
            InputError: naming both numbers.
        """
        if self.on and images % self.group:
            way = "an even batch size" if images % 2 else f"--mixing.group {images}"
            raise InputError(
                f"mixing.group={self.group} does not divide the {images} images of a micro-batch; "
                f"give {way}, or --mixing.mixup 0 --mixing.cutmix 0"
            )


class MixPlan(NamedTuple):
    """How each group is mixed: its own pixels weigh ``keep``, and 0 inside the box.

    Args:
        keep: ``(G,)`` float32: lambda of mixup, 1 of cutmix.
        box: ``(G, 4)`` int64: top, bottom, left, right; empty for mixup.
    """

    keep: Tensor
    box: Tensor


def draw_mixing(options: Mixing, size: tuple[int, int], generator: torch.Generator) -> MixPlan:
    """The plan of one group of (h, w) images, G = 1."""
    cut = options.cutmix > 0
    if options.mixup > 0 and options.cutmix > 0:
        cut = bool(torch.rand((), generator=generator) < options.switch)
    share = beta(options.cutmix if cut else options.mixup, generator)
    box = mixed_box(size, share, generator) if cut else [0, 0, 0, 0]
    return MixPlan(torch.tensor([1.0 if cut else share]), torch.tensor([box]))


def beta(alpha: float, generator: torch.Generator) -> float:
    """A number of the distribution Beta(alpha, alpha), by Jöhnk's rejection."""
    while True:
        pair = torch.rand(2, generator=generator, dtype=torch.float64) ** (1 / alpha)
        total = float(pair.sum())
        if 0 < total <= 1:
            return float(pair[0]) / total


def mixed_box(size: tuple[int, int], share: float, generator: torch.Generator) -> list[int]:
    """Cutmix's box: sides sqrt(1 - share) of the image's, centre anywhere, cut at the borders.

    Returns:
        Top, bottom, left, right.
    """
    edges: list[int] = []
    for side in size:
        half = int(side * math.sqrt(1 - share)) // 2
        centre = int(torch.randint(side, (), generator=generator))
        edges += [max(centre - half, 0), min(centre + half, side)]
    return edges


def mix(images: Tensor, plan: MixPlan) -> tuple[Tensor, Tensor]:
    """Mix every group with itself in reverse order.

    Args:
        images: ``(G M, C, H, W)`` float.
        plan: on the same device.

    Returns:
        The mixed images, and ``(G,)`` float32, the share that an image keeps of itself, which for
        cutmix is of the pixels really left.
    """
    top, bottom, left, right = plan.box.T[..., None]  # (G, 1) each
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[-2:])
    in_rows = (rows >= top) & (rows < bottom)  # (G, H)
    in_columns = (columns >= left) & (columns < right)  # (G, W)
    outside = ~(in_rows[:, :, None] & in_columns[:, None, :])  # (G, H, W)
    weight = plan.keep[:, None, None] * outside  # (G, H, W)
    own = images.unflatten(0, (len(plan.keep), -1))  # (G, M, C, H, W)
    mixed = torch.lerp(own.flip(1), own, weight[:, None, None].to(own.dtype))  # (G, M, C, H, W)
    return mixed.flatten(0, 1), weight.mean((1, 2))


def soft_targets(labels: Tensor, classes: int, *, smoothing: float = 0.0) -> Tensor:
    """``(B,)`` labels as ``(B, K)`` probabilities: 1 - s + s / K on, s / K off."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mix_targets(targets: Tensor, share: Tensor) -> Tensor:
    """``(G M, K)`` targets of images that keep ``(G,)`` shares of themselves."""
    own = targets.unflatten(0, (len(share), -1))  # (G, M, K)
    return torch.lerp(own.flip(1), own, share[:, None, None]).flatten(0, 1)


Lookup = Callable[[Tensor, Tensor], Tensor]
"""Rows and views, ``(n,)`` int64 each, to codes ``(n, L)`` or features ``(n, D)``."""


class StoredBatches(ImageBatches):
    """Batches of codes or features that were computed before, each in a view that is drawn.

    Args:
        lookup: reads them, such as ``LatentCache.codes``.
        labels: ``(N,)`` int64.
        views: variants of each image.
        batches: as of :class:`unmask.data.batches.ImageBatches`, whose images are not looked at.
    """

    def __init__(self, lookup: Lookup, labels: Tensor, *, views: int, **batches: Any) -> None:
        super().__init__(**batches)
        self.lookup, self.labels, self.views = lookup, labels, views

    def _micro_batch(self, rows: list[int], step: int, first: int) -> MicroBatch:
        stream = keyed_generator(self.seed, "view", step)
        views = torch.randint(self.views, (self.batch_size,), generator=stream)  # (B,)
        where = torch.tensor(rows)
        return self.lookup(where, views[first : first + len(rows)]), self.labels[where]


class MixedBatches(Dataset[list[tuple[Tensor, Tensor | None, MixPlan]]]):
    """Batches of images with a plan how they are mixed, which happens on the device.

    Raises:
        InputError: groups do not divide a micro-batch.
    """

    def __init__(self, images: ImageBatches, mixing: Mixing) -> None:
        for part in images.own:
            mixing.check(part.stop - part.start)
        self.images, self.mixing = images, mixing

    def __len__(self) -> int:
        """Steps of the run."""
        return len(self.images)

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor | None, MixPlan]]:
        """This process's micro-batches; groups are counted over the whole batch."""
        return [
            (images, labels, self._plan(images, step, part.start // self.mixing.group))
            for part, (images, labels) in zip(self.images.own, self.images[step], strict=True)
        ]

    def _plan(self, images: Tensor, step: int, first: int) -> MixPlan:
        numbers = range(first, first + len(images) // self.mixing.group)
        size = images.shape[2], images.shape[3]
        streams = (keyed_generator(self.images.seed, "mix", step, number) for number in numbers)
        plans = [draw_mixing(self.mixing, size, stream) for stream in streams]
        return MixPlan(*map(torch.cat, zip(*plans, strict=True)))
