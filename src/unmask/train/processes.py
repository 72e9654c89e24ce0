"""The processes of a launcher (accelerate launch, torchrun), on any kind of machine."""

from __future__ import annotations

from accelerate import PartialState

from unmask.devices import find_accelerator
from unmask.train.environment import check_launcher


def without_accelerator() -> bool:
    """Whether this machine computes on the CPU; accelerate must be told to join processes there."""
    return find_accelerator() is None


def launched() -> PartialState:
    """This process among those of its launcher, joined by gloo where there is no accelerator.

    Without being told, accelerate leaves the processes of a CPU machine apart, and each would
    train the whole run in the same folder.

    Raises:
        InputError: see :func:`unmask.train.environment.check_launcher`.
    """
    check_launcher()
    return PartialState(cpu=without_accelerator())


def part() -> None:
    """Wait for the others and leave the group, so that none ends while another still speaks."""
    state = launched()
    state.wait_for_everyone()
    state.destroy_process_group()
