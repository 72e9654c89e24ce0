"""AdamW, the learning rate as a pure function of the step, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from unmask.recipes.training import Ema, Training


def learning_rate(settings: Training, step: int) -> float:
    """Learning rate of one optimiser step.

    maskgit-pytorch, ``utils/scheduler.py``: after a linear warm-up of w steps, with progress
    p = (k - w) / (S - w), the factor is 1, max(0, 1 - p) or (1 + cos(pi p)) / 2. UnlockMGM's
    "restarts" repeats the cosine ``cycles`` times and stays at 0 (once, as it was run). MAGE's
    cosine (``util/lr_sched.py``) ends at a rate above 0.

    Args:
        settings: peak, schedule, warm-up and length of the run.
        step: k, 0-based; with a warm-up step 0 has learning rate 0, as published.
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.lr * step / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    if settings.schedule == "cosine":
        span = settings.lr - settings.min_lr
        return settings.min_lr + span * 0.5 * (1 + math.cos(math.pi * progress))
    if settings.schedule == "restarts":
        turn = (settings.cycles * progress) % 1 if progress < 1 else 1.0
        return settings.lr * 0.5 * (1 + math.cos(math.pi * turn))
    if settings.schedule == "linear":
        return settings.lr * max(0.0, 1 - progress)
    return settings.lr


def parameter_groups(model: nn.Module, settings: Training) -> list[dict[str, object]]:
    """Trainable parameters by weight decay.

    Returns:
        One group as maskgit-pytorch has it, and a second one without decay for what
        ``decay_only_matrices`` and ``decay_head`` spare. Parameters that have an attribute
        ``lr_scale`` are in groups of their own, which have it too.
    """
    kinds: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        flat = settings.decay_only_matrices and parameter.ndim < 2
        in_head = not settings.decay_head and "head" in name.split(".")
        if parameter.requires_grad:
            kind = getattr(parameter, "lr_scale", 1.0), flat or in_head
            kinds.setdefault(kind, []).append(parameter)
    return [
        {"params": kinds[scale, spared], "weight_decay": 0.0 if spared else settings.weight_decay}
        | ({} if scale == 1 else {"lr_scale": scale})
        for scale, spared in sorted(kinds, key=lambda kind: (-kind[0], kind[1]))
    ]


def make_optimizer(model: nn.Module, settings: Training) -> AdamW:
    """AdamW over the trainable parameters of a model that is already on its device."""
    return adamw(parameter_groups(model, settings), settings)


def adamw(groups: list[dict[str, object]], settings: Training) -> AdamW:
    """AdamW in one fused kernel where the device has one.

    Args:
        groups: parameters, weight decay and, if wanted, ``lr_scale``.
        settings: betas, epsilon and peak learning rate.
    """
    try:
        return _adamw(groups, settings, fused=True)
    except RuntimeError:  # torch raises this for a device without the fused kernel
        return _adamw(groups, settings, fused=False)


def _adamw(groups: list[dict[str, object]], settings: Training, *, fused: bool) -> AdamW:
    copies = [dict(group) for group in groups]  # the constructor fills them in
    kernel = {"fused": True} if fused else {"foreach": True}
    return AdamW(copies, lr=settings.lr, betas=settings.betas, eps=settings.eps, **kernel)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate, times its ``lr_scale`` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


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
