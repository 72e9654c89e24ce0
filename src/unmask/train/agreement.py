"""What the processes of a run do together though only one of them has a reason: stop, save.

Each has its own clock and gets its own signals, and a process that saves alone would wait for the
others for ever. So after every step all of them tell each other what they wish, over the group in
which they meet, which works on the CPU whatever the training uses, and nobody waits for the answer:
it is read one step later, when it has long been there. A device is never waited for. What is
agreed on happens after the same step everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist

from unmask.machine.processes import meeting


class Wish(NamedTuple):
    """What a process has a reason for; of several, the largest counts.

    Args:
        stop: Number of the signal to stop for.
        save: Whether a checkpoint is due by the main process's clock.
    """

    stop: int = 0
    save: bool = False


class Agreement:
    """The wishes of all processes. Alone, a process agrees with itself at once.

    Args:
        processes: how many there are; all make one at the same time.
    """

    def __init__(self, processes: int) -> None:
        self.group = meeting() if processes > 1 else None
        self.posted: tuple[torch.Tensor, dist.Work] | None = None

    @property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self.group is None

    def exchange(self, wish: Wish) -> Wish:
        """Tell the others a wish, and learn what all wished one call before.

        Waits until every process has begun the call before, and for no device.
        """
        if self.group is None:
            return wish
        before = self.answer()
        told = torch.tensor([wish.stop, int(wish.save)])
        work = dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group, async_op=True)
        self.posted = told, work
        return before

    def answer(self) -> Wish:
        """What all wished at the last exchange; no wish before the first."""
        if self.posted is None:
            return Wish()
        told, work = self.posted
        self.posted = None
        work.wait()
        return Wish(int(told[0]), bool(told[1]))


@contextmanager
def agreed(processes: int) -> Iterator[Agreement]:
    """An agreement whose last wishes are taken note of, unless others may be gone by a failure.

    Args:
        processes: how many there are; all make one at the same time.
    """
    agreement = Agreement(processes)
    yield agreement
    agreement.answer()
