"""Less memory in training: a block's activations are computed again when gradients need them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A block that may forget its activations; results, dropout and gradients are the same."""

    recompute = False

    def __call__(self, *args: Any, **named: Any) -> Any:
        """The module's forward."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **named)
        return super().__call__(*args, **named)


def recompute_blocks(model: nn.Module) -> None:
    """Let every block of a model forget its activations."""
    for module in model.modules():
        if isinstance(module, Recomputable):
            module.recompute = True
