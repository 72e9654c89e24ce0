"""A checkpoint set aside in the machine's memory, to be written while the training goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.memory import free_memory
from unmask.train.handover import mapped
from unmask.train.state import Checkpoint


def has_own_memory(device: torch.device) -> bool:
    """Whether a device computes while the machine's processor and memory do something else."""
    return device.type != "cpu"


def set_aside(checkpoint: Checkpoint) -> Checkpoint | None:
    """A copy that the next step does not change; None unless twice its bytes are free.

    Args:
        checkpoint: with tensors on any device.
    """
    held = list[Tensor]()
    mapped([checkpoint.weights, checkpoint.state], Tensor, held.append)
    if 2 * sum(tensor.numel() * tensor.element_size() for tensor in held) > free_memory():
        return None
    copy = mapped(
        {"weights": checkpoint.weights, "state": checkpoint.state},
        Tensor,
        lambda tensor: tensor.detach().to("cpu", copy=True),
    )
    return checkpoint._replace(**copy)
