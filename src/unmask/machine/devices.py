"""The device that computes: what is asked for, or whatever this machine can really use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress

import torch

from unmask.errors import InputError

LOCAL_RANK = "LOCAL_RANK"  # which process of this machine a launcher started


def find_accelerator() -> torch.device | None:
    """The machine's accelerator, or None where there is none that can be used.

    A torch built for CUDA names its accelerator on a machine without a GPU or driver too, so the
    name alone says nothing.
    """
    if not torch.accelerator.is_available():
        return None
    return torch.accelerator.current_accelerator()


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of a name.

    Args:
        name: a device of torch such as "cpu", "cuda" or "cuda:1"; or "auto": the machine's
            accelerator if one can be used, else the CPU. Unless a number is given, each process of
            a launcher gets an accelerator of its own as far as there are so many.

    Raises:
        InputError: for a device that this machine, or this torch, does not have.
    """
    here = find_accelerator()
    count = torch.accelerator.device_count() if here else 0
    with suppress(RuntimeError):  # no name of a device at all
        device = torch.device(here or "cpu") if name == "auto" else torch.device(name)
        if device.type == "cpu" and not device.index:
            return device
        if here is not None and device.type == here.type:
            if device.index is None:
                return _own_share(here, count)
            if device.index < count:
                return device
    known = ", ".join(["auto", "cpu", *([here.type] if here else [])])
    found = f"{count} of {here.type}" if here else "no accelerator"
    raise InputError(
        f"device {str(name)!r} is not available here; use one of: {known} (torch "
        f"{torch.__version__} finds {found})"
    )


def _own_share(here: torch.device, count: int) -> torch.device:
    """Another accelerator for each process of this machine, as far as there are so many."""
    rank = os.environ.get(LOCAL_RANK, "")
    if count > 1 and rank.isdecimal():
        return torch.device(here.type, int(rank) % count)
    return here


def full_precision(device_type: str) -> AbstractContextManager:
    """Inside, autocast is off: what is float32 is computed in float32."""
    available = torch.amp.is_autocast_available(device_type)  # not on the meta device
    return torch.autocast(device_type, enabled=False) if available else nullcontext()
