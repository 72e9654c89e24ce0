"""The processes of a launcher (accelerate launch, torchrun), on any kind of machine.

Gradients are exchanged over the default group, which gives up after :data:`PATIENCE`. Where one
process works while the others wait, and where objects are exchanged, they meet in a group of their
own, on the CPU (gloo, also beside NCCL): it waits as long as the work takes, and ends in seconds
when a process has died.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch.distributed as dist
from accelerate import PartialState

from unmask.errors import InputError, SaidError
from unmask.machine import signals
from unmask.machine.devices import find_accelerator
from unmask.machine.environment import check_launcher
from unmask.text import say

T = TypeVar("T")
PATIENCE = timedelta(hours=1)
"""Duration after which an exchange of gradients counts as stuck; nothing else waits in it."""
FOREVER = timedelta(days=365)
"""Duration that a process waits for another one's work."""
LATE = 90.0
"""Seconds after which a network file system shows what another machine has written."""
_MEETINGS = WeakKeyDictionary[dist.ProcessGroup, dist.ProcessGroup]()
"""By default group, so that the one ends with the other."""


def without_accelerator() -> bool:
    """Whether this machine computes on the CPU; accelerate must be told to join processes there."""
    return find_accelerator() is None


def launched() -> PartialState:
    """This process among those of its launcher, joined by gloo where there is no accelerator.

    Without being told, accelerate leaves the processes of a CPU machine apart, and each would
    train the whole run in the same folder.

    Raises:
        InputError: see :func:`unmask.machine.environment.check_launcher`.
    """
    check_launcher()
    return PartialState(cpu=without_accelerator(), timeout=PATIENCE)


def meeting() -> dist.ProcessGroup | None:
    """The group in which processes wait for each other's work; None for a process alone.

    It is made at the first call, which every process makes at the same time.
    """
    if launched().num_processes == 1 or not dist.is_initialized():
        return None
    world = dist.group.WORLD
    assert world is not None, "a group that is initialised exists"
    if world not in _MEETINGS:
        _MEETINGS[world] = dist.new_group(backend="gloo", timeout=FOREVER)
    return _MEETINGS[world]


@contextmanager
def failures_of_others() -> Iterator[None]:
    """Say in one line that another process of the launcher ended, which shows as lost contact.

    Raises:
        InputError: in place of what the communication raises.
        Stopped: in its place, where a signal came to this process too.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if not lost or not dist.is_initialized():
            raise
        if signals.arrived():
            raise signals.Stopped(signals.arrived()) from error
        raise refusal(
            "another process of this launch has ended, so this one does too; look at what that "
            "one said; start again with the same words to go on from what is finished"
        ) from error


def meet() -> None:
    """Wait until every process has come here, however long its work takes.

    Raises:
        InputError: another process has ended.
    """
    group = meeting()
    if group is not None:
        with failures_of_others():
            dist.barrier(group)


def part() -> None:
    """Wait for the others and leave the group, so that none ends while another still speaks.

    Raises:
        InputError: another process has ended.
    """
    meet()
    launched().destroy_process_group()


def share(count: int) -> range:
    """This process's part of so many things: as long a range as the others', up to one.

    The ranges of all processes follow each other; where there are more processes than things, some
    are empty.
    """
    state = launched()
    first, end = (count * (state.process_index + i) // state.num_processes for i in (0, 1))
    return range(first, end)


def by_main(work: Callable[[], T]) -> T:
    """Do something in the main process alone; all have what it returns, or raise its error.

    Args:
        work: may take as long as it likes; what it returns can be pickled.

    Raises:
        Exception: the main process's, in the main process.
        SaidError: that error, in the others.
        InputError: another process has ended.
    """
    state, group = launched(), meeting()
    if group is None:
        return work()
    told: list[Any] = [None, None]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            told[0] = work()
        except Exception as error:
            failure, told[1] = error, str(error)
    with failures_of_others():
        dist.broadcast_object_list(told, src=0, group=group)
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise SaidError(told[1])
    return told[0]


def gathered(own: T) -> list[T]:
    """What every process has, by number of the process; all of them have it afterwards.

    Args:
        own: can be pickled.

    Raises:
        InputError: another process has ended.
    """
    state, group = launched(), meeting()
    if group is None:
        return [own]
    every: list[Any] = [None] * state.num_processes
    with failures_of_others():
        dist.all_gather_object(every, own, group=group)
    return every


def say_once(*lines: object) -> None:
    """Print lines, each whole, in the main process alone."""
    if launched().is_main_process:
        say(*lines)


def dealt(count: int, work: Callable[[int], T], *, together: bool) -> Iterator[T]:
    """What some work makes of 0, 1, ..., in this order; processes take turns, and all have all.

    Args:
        count: of the numbers.
        work: makes the same of a number in whatever process; what it makes can be pickled.
        together: whether the processes of the launcher share the work. All of them do this then,
            and stop at the same number if they stop before the end.

    Raises:
        InputError: another process has ended.
    """
    if not together:
        yield from map(work, range(count))
        return
    state = launched()
    for first in range(0, count, state.num_processes):
        own = first + state.process_index
        made = gathered(work(own) if own < count else None)
        yield from made[: count - first]  # type: ignore[misc]


def any_says(word: str) -> str:
    """The first word of a process that has one to say, the same in all of them; "" for none."""
    return next(filter(None, gathered(word)), "")


def refusal(line: str) -> InputError:
    """The error that all processes raise alike; the main one says it."""
    return InputError(line) if launched().is_main_process else SaidError(line)


def check_shared(file: Path) -> None:
    """Wait until every process sees a file that one has written.

    Raises:
        InputError: one does not, since its machine has a folder of its own.
    """
    end = time.monotonic() + LATE
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    who = f"process {launched().process_index} on {platform.node()}"
    if blind := any_says("" if file.exists() else who):
        raise refusal(
            f"{blind} does not see {file}, which another process has written; name a folder that "
            "all machines share"
        )
