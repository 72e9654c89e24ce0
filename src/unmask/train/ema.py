"""Exponential moving average of the weights, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.recipes.training import Ema


def ema_decay(settings: Ema, update: int) -> float:
    """Decay of one update of the average; 0 means that the weights are copied.

    maskgit-pytorch (``models/ema.py``) counts updates from 1 and warms up in n. UnlockMGM
    (``muse/modeling_ema.py``), whose ``update_after_step`` is our ``after_step``, warms up in
    n - after_step - 1, so that averaging begins at update ``after_step + 2``. Both are followed:
    the second wherever ``after_step`` is not 0.

    Args:
        settings: largest decay and warm-up.
        update: n, 1 for the first.
    """
    n = update - settings.after_step - 1 if settings.after_step else update
    if n <= 0:
        return 0.0
    if settings.warmup == "inverse":
        return min(settings.decay, (1 + n) / (10 + n))
    if settings.warmup == "power":
        return min(settings.decay, 1 - (1 + n) ** -settings.power)
    return settings.decay


class EmaWeights:
    """The averaged weights of a model.

    Trainable parameters are averaged; frozen ones and buffers are always the model's own.

    Args:
        model: on its device; the average starts as a copy of its weights.
        settings: decay and warm-up.
    """

    def __init__(self, model: nn.Module, settings: Ema) -> None:
        self.model = model
        self.settings = settings
        self.updates = 0
        self.live: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone().float() for p in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the average, once an optimiser step."""
        self.updates += 1
        decay = ema_decay(self.settings, self.updates)
        weights = [p if p.dtype == torch.float32 else p.float() for p in self.live]
        if decay == 0:
            torch._foreach_copy_(self.shadow, weights)
        else:
            torch._foreach_lerp_(self.shadow, weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[nn.Module]:
        """The model with averaged weights, for samples and evaluation; its own come back after."""
        own = [p.detach().clone() for p in self.live]
        try:
            self._put(self.shadow)
            yield self.model
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.live, values)

    def state_dict(self) -> dict[str, Tensor]:
        """The model's state dict, under its own names, with the averaged weights in it."""
        averaged = {id(p): shadow for p, shadow in zip(self.live, self.shadow, strict=True)}
        state = self.model.state_dict(keep_vars=True)
        return {name: averaged.get(id(t), t).detach() for name, t in state.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], *, updates: int) -> None:
        """Continue from a saved average.

        Args:
            state: what :meth:`state_dict` gave; names of frozen weights are passed over.
            updates: how many updates it had seen.
        """
        names = {id(p): name for name, p in self.model.state_dict(keep_vars=True).items()}
        torch._foreach_copy_(self.shadow, [state[names[id(p)]] for p in self.live])
        self.updates = updates
