"""A random sample of a stream whose length nobody knows."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.draws import keyed_generator


class RandomRows:
    """At most ``most`` rows of a stream, any as likely as any other; all of them if they fit.

    Rows stay in their order. Which of them are kept depends on their numbers alone; memory holds at
    most twice as many.

    Args:
        most: rows wanted, at least 0.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._rows: list[Tensor] = []
        self._luck: list[Tensor] = []
        self._held = 0
        self._generator = keyed_generator("kept rows")

    def add(self, rows: Tensor) -> None:
        """See ``(B, F)`` more rows."""
        if not self.most:
            return
        self._rows.append(rows)
        self._luck.append(torch.rand(len(rows), generator=self._generator, dtype=torch.float64))
        self._held += len(rows)
        if self._held > 2 * self.most:
            self._forget()

    def _forget(self) -> None:
        """Let go of all but the rows with the lowest numbers."""
        luck = torch.cat(self._luck)
        kept = luck.argsort()[: self.most].sort().values
        self._rows, self._luck = [torch.cat(self._rows)[kept]], [luck[kept]]
        self._held = len(kept)

    def kept(self) -> Tensor:
        """``(N, F)``, N at most ``most``; ``(0, 0)`` where none was added."""
        if self._held > self.most:
            self._forget()
        return torch.cat(self._rows) if self._rows else torch.zeros(0, 0)
