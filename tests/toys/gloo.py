"""Processes of a launcher, made by fork: they join by gloo and do one thing each."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
from accelerate.state import AcceleratorState
from forks import forked, status

from unmask.machine import processes


def joined(
    count: int, body: Callable[[int], object], *, patience: float | None = None
) -> list[int]:
    """How the processes of a launch ended, each a fork of this one.

    Args:
        count: of processes.
        body: what each does, given its number; an error that escapes is printed and is status 1.
        patience: seconds after which the default group gives up; None leaves the usual ones.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def one(rank: int) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(1)  # those of the parent are not in the child
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        if patience is not None:
            processes.PATIENCE = timedelta(seconds=patience)
        body(rank)

    pids = [forked(lambda rank=rank: one(rank)) for rank in range(count)]
    return [status(pid) for pid in pids]
