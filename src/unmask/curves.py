"""The masked share as a function of progress: 1 at the start, 0 at the end.

Every system of the family has such a curve, in training (progress drawn uniformly) and in decoding
(progress = finished steps / steps). MaskGIT, section 3.2 (arXiv 2202.04200) calls it gamma(r).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import pick, unknown

HALF_PI = 0.5 * math.pi


def _sigmoid(r: Tensor, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Tensor:
    first, last = torch.sigmoid(torch.tensor([start, end], dtype=r.dtype) / tau).to(r.device)
    return (last - torch.sigmoid((r * (end - start) + start) / tau)) / (last - first)


def _muse(r: Tensor) -> Tensor:
    odds = 0.2 * (r + 1e-4) / (0.8 * (1 - (r + 1e-4)))
    return 1 - 1 / (1 + odds**-2) + 1e-4


CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda r: torch.cos(r * HALF_PI),  # MaskGIT, all published models
    "linear": lambda r: 1 - r,
    "sqrt": lambda r: 1 - torch.sqrt(r),
    "arccos": lambda r: torch.arccos(r) / HALF_PI,  # maskgit-pytorch, Halton-MaskGIT
    "sigmoid": _sigmoid,  # open-muse, from -3 to 3 at temperature 1
    "muse": _muse,  # UnlockMGM's pipeline, "custom"; not defined at r = 1
}

# These two also depend on the number of tokens (JAX MaskGIT's "log" and "exp").
TOKEN_CURVES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "logarithmic": lambda r, total: -torch.log2(r.clamp(min=1e-3)) / math.log2(total),
    "exponential": lambda r, total: 1 - torch.exp(-math.log(total) * (1 - r)),
}

POWER = re.compile(r"pow(\d+(?:\.\d+)?)")
SIGMOID = re.compile(r"sigmoid\((-?[\d.]+),(-?[\d.]+),([\d.]+)\)")


def find_curve(name: str, total: int | None = None) -> Callable[[Tensor], Tensor]:
    """The curve as a function of progress, not clipped.

    Args:
        name: a key of ``CURVES`` or ``TOKEN_CURVES``; ``pow<e>`` for 1 - r^e; or
            ``sigmoid(<start>,<end>,<temperature>)``.
        total: L, needed by ``TOKEN_CURVES`` only.

    Raises:
        InputError: for any other name.
    """
    if name in CURVES:
        return CURVES[name]
    if name in TOKEN_CURVES:
        assert total is not None, f"the curve {name!r} needs the number of tokens"
        return lambda r: TOKEN_CURVES[name](r, total)
    if power := POWER.fullmatch(name):
        return lambda r: 1 - r ** float(power[1])
    if sigmoid := SIGMOID.fullmatch(name):
        start, end, tau = map(float, sigmoid.groups())
        return lambda r: _sigmoid(r, start, end, tau)
    known = [*CURVES, *TOKEN_CURVES, "pow2", "sigmoid(-3,3,1)"]
    raise unknown("mask curve", name, known)


def masked_share(name: str, progress: Tensor, *, total: int) -> Tensor:
    """Share of tokens that are masked at a given progress.

    Args:
        name: see :func:`find_curve`.
        progress: r in [0, 1], any shape; its dtype is the arithmetic's.
        total: L, tokens of an image.

    Returns:
        Shares in [0, 1], of the shape and dtype of ``progress``.

    Raises:
        InputError: for an unknown name.
    """
    return find_curve(name, total)(progress).clamp(0, 1)


EARLIEST = 1e-5  # where the plan's time ends


def remaining_time(steps: int) -> Tensor:
    """The time left before, between and after the steps of a plan, from 1 to 1e-5 (eMIGM).

    Returns:
        ``(steps + 1,)`` float32.
    """
    return torch.linspace(1.0, EARLIEST, steps + 1)


class TimeCurve(NamedTuple):
    """A masked share as a function of the time left, gamma(t) of eMIGM (arXiv 2503.07197).

    Args:
        share: gamma(t), 1 at t = 1 (but 0.993 for "exp") and 0 at t = 0.
        log_derivative: gamma'(t) / gamma(t), the weight of a token's loss.
    """

    share: Callable[[Tensor], Tensor]
    log_derivative: Callable[[Tensor], Tensor]


STEEP = math.exp(5.0) - 1
TIME_CURVES: dict[str, TimeCurve] = {
    "cosine": TimeCurve(
        lambda t: torch.cos(HALF_PI * (1 - t)), lambda t: HALF_PI * torch.tan(HALF_PI * (1 - t))
    ),
    "linear": TimeCurve(lambda t: t, lambda t: 1 / t),
    "sqrt": TimeCurve(torch.sqrt, lambda t: 0.5 / t),
    "exp": TimeCurve(
        lambda t: 1 - torch.exp(-5 * t), lambda t: 5 * torch.exp(-5 * t) / (1 - torch.exp(-5 * t))
    ),
    "log": TimeCurve(
        lambda t: torch.log(1 + STEEP * t) / 5,
        lambda t: STEEP / ((1 + STEEP * t) * torch.log(1 + STEEP * t)),
    ),
}


def time_curve(name: str) -> TimeCurve:
    """A mask function of eMIGM by name.

    Raises:
        InputError: for an unknown one.
    """
    return pick(TIME_CURVES, name, "mask function")
