"""Which device a command runs on when it is not told."""

from __future__ import annotations

import torch

from unmask.errors import InputError


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is the machine's accelerator if it has one, else the CPU.

    Raises:
        InputError: for a device that this machine, or this torch, does not have.
    """
    here = torch.accelerator.current_accelerator()
    if name == "auto":
        return here or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    count = torch.accelerator.device_count() if here else 0
    is_here = here is not None and device is not None and device.type == here.type
    if device is None or not (device.type == "cpu" or (is_here and (device.index or 0) < count)):
        known = ", ".join(["auto", "cpu", *([here.type] if here else [])])
        raise InputError(f"device {name!r} is not available here; use one of: {known}")
    return device
