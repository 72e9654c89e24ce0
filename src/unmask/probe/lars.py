"""LARS, the optimiser of linear probes with large batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Momentum whose step for a matrix is proportional to the matrix's own norm.

    Arxiv 1708.03888 as MAGE has it (``util/lars.py``, after MoCo v3): a gradient g of a tensor w
    with more than one dimension becomes ``(g + decay w) c |w| / |g + decay w|``, where the quotient
    is left out if either norm is 0; other tensors take plain momentum steps without decay.

    Args:
        params: what is trained.
        lr: learning rate.
        weight_decay: of tensors with more than one dimension.
        momentum: share of the last step that stays.
        trust: c.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; nothing waits for the device."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        change = weight.grad
        assert change is not None, "the caller looks"
        if weight.ndim > 1:
            change = change.add(weight, alpha=group["weight_decay"])
            ours, theirs = weight.norm(), change.norm()
            ratio = group["trust"] * ours / theirs
            change = change * torch.where((ours > 0) & (theirs > 0), ratio, 1.0)
        state = self.state[weight]
        momentum = state.setdefault("momentum", torch.zeros_like(weight))
        momentum.mul_(group["momentum"]).add_(change)
        weight.sub_(momentum, alpha=group["lr"])
