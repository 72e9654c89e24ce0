"""The processes of a launcher (accelerate launch, torchrun), on any kind of machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from unmask.errors import InputError
from unmask.machine.devices import find_accelerator
from unmask.machine.environment import check_launcher

T = TypeVar("T")


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
    return PartialState(cpu=without_accelerator())


def part() -> None:
    """Wait for the others and leave the group, so that none ends while another still speaks."""
    state = launched()
    state.wait_for_everyone()
    state.destroy_process_group()


def by_main(work: Callable[[], T]) -> T:
    """Do something in the main process alone; all have what it returns, or raise its error.

    Args:
        work: what it returns can be pickled.

    Raises:
        InputError: the main process's.
    """
    state = launched()
    if state.num_processes == 1:
        return work()
    told: list[object] = [None, None]
    if state.is_main_process:
        try:
            told[0] = work()
        except InputError as error:
            told[1] = str(error)
    broadcast_object_list(told)
    if told[1] is not None:
        raise InputError(str(told[1]))
    return told[0]  # type: ignore[return-value]


def any_says(word: str) -> str:
    """The first word of a process that has one to say, the same in all of them; "" for none."""
    return next(filter(None, gather_object([word])), "")
