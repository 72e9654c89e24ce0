"""AdamW and the learning rate, a pure function of the step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer

from unmask.recipes.training import Training


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
        ``decay_only_matrices`` and ``decay_head`` spare.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        flat = settings.decay_only_matrices and parameter.ndim < 2
        in_head = not settings.decay_head and "head" in name.split(".")
        if parameter.requires_grad:
            (spared if flat or in_head else decayed).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


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
