"""When a clock asks for a checkpoint or forgoes a look: shares of time, not numbers of steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAVING = 0.02
"""Largest share of the time that the clock's saves take."""
Clock = Callable[[], float]
"""Seconds since some moment."""


class SavePace:
    """When a checkpoint is due by the clock.

    Args:
        minutes: between two; more where a save takes longer than :data:`SAVING` of that. 0 means
            never.
        clock: of this process.
    """

    def __init__(self, minutes: float, clock: Clock = time.monotonic) -> None:
        self.minutes, self.clock, self.cost = minutes, clock, 0.0
        self.saved_at, self.asked = clock(), False

    @contextmanager
    def saved(self) -> Iterator[None]:
        """Time a save; the next one is counted from its end."""
        began = self.clock()
        yield
        self.saved_at, self.asked = self.clock(), False
        self.cost = self.saved_at - began

    def asks(self) -> bool:
        """Whether a checkpoint is due now; True once, until it is saved."""
        due = not self.asked and self._waited(60 * self.minutes)
        self.asked |= due
        return due

    def worthwhile(self) -> bool:
        """Whether a save before something that may fail costs little enough."""
        return self._waited(0)

    def _waited(self, seconds: float) -> bool:
        longest = max(seconds, self.cost / SAVING)
        return self.minutes > 0 and self.clock() - self.saved_at >= longest


class LookPace:
    """Whether there is time for a look that may be left out.

    Args:
        share: largest share of the time since the beginning; from 1 on there always is.
        clock: of this process.
    """

    def __init__(self, share: float, clock: Clock = time.monotonic) -> None:
        self.share, self.clock, self.began = share, clock, clock()
        self.spent = self.last = 0.0

    def allows(self) -> bool:
        """Whether another one, at the price of the last, keeps within the share."""
        if self.share >= 1:
            return True
        return self.spent + self.last <= self.share * (self.clock() - self.began)

    @contextmanager
    def looked(self) -> Iterator[None]:
        """Time a look."""
        began = self.clock()
        yield
        self.last = self.clock() - began
        self.spent += self.last
