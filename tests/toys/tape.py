"""Recorded random numbers in the place of drawn ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unmask.draws import Draws


class Tape(Draws):
    """Replays recorded randomness, as parity tests need.

    Args:
        records: by purpose, the recorded numbers with the step first: ``"token"`` holds
            exponential numbers ``(T, B, L, V)`` of a race (the largest probability over noise
            wins); any other purpose holds what :meth:`uniform`, :meth:`normal` or
            :meth:`gumbel` returned, ``(T, B, ...)``.
        batch: B.
    """

    def __init__(self, records: Mapping[str, Tensor], batch: int) -> None:
        super().__init__([0] * batch)
        self.records = dict(records)

    def _replay(self, purpose: str, step: int) -> Tensor:
        if purpose not in self.records:
            known = ", ".join(sorted(self.records))
            raise KeyError(f"the tape holds no record of {purpose!r}, only of: {known}")
        return self.records[purpose][step]

    def uniform(self, purpose: str, step: int, *shape: int) -> Tensor:
        """The record of ``purpose`` at ``step``, as it is."""
        return self._replay(purpose, step)

    def normal(self, purpose: str, step: int, *shape: int) -> Tensor:
        """The record of ``purpose`` at ``step``, as it is."""
        return self._replay(purpose, step)

    def normal_at(self, purpose: str, step: int, where: Tensor, *shape: int) -> Tensor:
        """The record ``(B, L, *shape)`` of ``purpose`` at ``step``, at the positions ``where``."""
        record = self._replay(purpose, step)
        return torch.stack([row[at] for row, at in zip(record, where, strict=True)])

    def shared_uniform(self, purpose: str, step: int, *shape: int) -> Tensor:
        """The record of ``purpose`` at ``step``, as it is."""
        return self._replay(purpose, step)

    def gumbel(self, purpose: str, step: int, *shape: int) -> Tensor:
        """The record of ``purpose`` at ``step``, taken as Gumbel numbers already."""
        return self._replay(purpose, step)

    def categorical(self, probs: Tensor, step: int, where: Tensor, length: int) -> Tensor:
        """The winner of the recorded exponential race, ``(B, N)`` int64."""
        noise = self._replay("token", step)  # (B, L, V)
        index = where.unsqueeze(-1).expand(-1, -1, noise.shape[-1])
        return (probs / noise.gather(1, index)).argmax(-1)
