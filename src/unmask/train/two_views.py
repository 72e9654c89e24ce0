"""Training batches of two views an image, each a pure function of (seed, step)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.errors import InputError
from unmask.objectives.masked import LocatedBatch, locate
from unmask.train.masked_batches import MaskedBatches
from unmask.types import MaskedBatch


class OtherViews(MaskedBatches):
    """The batches of the same images, each in another view and under another mask."""

    def _stream(self, purpose: str, *key: int) -> torch.Generator:
        return super()._stream(f"other {purpose}", *key)

    def views(self, step: int) -> Tensor:
        """``(B,)`` int64, none of them that of :class:`MaskedBatches`."""
        count = (self.training.batch_size,)
        first = torch.randint(self.cache.views, count, generator=super()._stream("view", step))
        apart = torch.randint(1, self.cache.views, count, generator=self._stream("view", step))
        return (first + apart) % self.cache.views


class TwoViewBatches(Dataset):
    """Masked batches with every image twice: rows i and b + i of 2 b are views of one image.

    Each view has a mask of its own, and its masked tokens count as much as the other's.

    Args:
        arguments: of :class:`MaskedBatches`.

    Raises:
        InputError: there is only one view of each image; see also :class:`MaskedBatches`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.first, self.second = (
            kind(*arguments, **named) for kind in (MaskedBatches, OtherViews)
        )
        if self.first.cache.views < 2:
            raise InputError(
                "contrastive needs two views of each image, and the cache has one: build it with "
                "--flip, or give --data and a random crop instead"
            )

    def __len__(self) -> int:
        """Steps of the run."""
        return len(self.first)

    def __getitem__(self, step: int) -> list[LocatedBatch]:
        """This process's micro-batches of a step."""
        pairs = zip(self.first[step], self.second[step], strict=True)
        return [locate(_joined(one.batch, two.batch)) for one, two in pairs]


def _joined(one: MaskedBatch, two: MaskedBatch) -> MaskedBatch:
    assert one.kept is not None, "MAGE's encoder sees a part"
    assert two.kept is not None
    return MaskedBatch(
        torch.cat([one.tokens, two.tokens]),
        torch.cat([one.masked, two.masked]),
        None,
        torch.cat([one.weight, two.weight]) / 2,
        torch.cat([one.kept, two.kept]),
    )
