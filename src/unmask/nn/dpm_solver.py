"""DPM-Solver++ (arXiv 2211.01095, singlestep, up to third order) as eMIGM runs it.

Steps are uniform in half log-SNR, lambda. Times are continuous, (n + 1) / 996 for step n: eMIGM
drops the four noisiest steps, so the network hears n 1000 / 996, slightly off its training. Times
and lambdas are float32 in the source's order, because 1 - exp(2 log alpha) cancels near the end and
published samples contain the error; what follows from them is float64.
"""

from __future__ import annotations

import functools
import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.nn.gaussian import STEPS, Stage, cosine_betas

NOISIEST = -5.1  # steps of lower lambda are dropped


class Knots(NamedTuple):
    """The noise schedule at its steps, ``(996,)`` float32 each, both to be interpolated."""

    times: Tensor
    log_alphas: Tensor


@functools.cache
def knots() -> Knots:
    """Times and log alphas of the steps that the solver keeps."""
    log_alphas = (1 - cosine_betas()).log().cumsum(0) / 2
    kept = log_alphas[half_log_snr_of(log_alphas) >= NOISIEST]
    times = torch.linspace(0, 1, len(kept) + 1, dtype=torch.float32, device="cpu")[1:]
    return Knots(times, kept.float())


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through ascending ``xs``, the outer pieces extended."""
    right = torch.searchsorted(xs, x).clamp(1, len(xs) - 1)
    x0, x1, y0, y1 = xs[right - 1], xs[right], ys[right - 1], ys[right]
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0)


def log_alpha(time: Tensor) -> Tensor:
    """Log of the signal's amplitude at continuous times, any shape."""
    return _interpolate(time, *knots())


def sigma(time: Tensor) -> Tensor:
    """The noise's amplitude."""
    return (1 - (2 * log_alpha(time)).exp()).sqrt()


def half_log_snr_of(log_alphas: Tensor) -> Tensor:
    """Lambda = log(alpha / sigma) of log alphas."""
    return log_alphas - 0.5 * (1 - (2 * log_alphas).exp()).log()


def half_log_snr(time: Tensor) -> Tensor:
    """Lambda at continuous times."""
    return half_log_snr_of(log_alpha(time))


def time_at(half_log_snr: Tensor) -> Tensor:
    """The continuous time of a lambda, the inverse of :func:`half_log_snr`."""
    wanted = -0.5 * torch.logaddexp(torch.zeros_like(half_log_snr), -2 * half_log_snr)
    times, log_alphas = knots()
    return _interpolate(wanted, log_alphas.flip(0), times.flip(0))


def network_time(time: Tensor) -> Tensor:
    """What the network is told at a continuous time: fractional, in [0, 1000)."""
    return (time - 1 / len(knots().times)) * STEPS


def orders(evaluations: int) -> list[int]:
    """Order of each step such that the network is evaluated so many times in all."""
    thirds, rest = divmod(evaluations, 3)
    if rest:
        return [3] * thirds + [rest]
    return [3] * (thirds - 1) + [2, 1]


def _evenly(start: Tensor, end: Tensor, count: int) -> Tensor:
    """``(count,)`` times whose lambdas are uniform between those of two times."""
    low, high = half_log_snr(torch.stack([start, end])).tolist()
    return time_at(torch.linspace(low, high, count, dtype=torch.float32, device="cpu"))


def step_times(evaluations: int) -> Tensor:
    """``(K + 1,)`` times between which the K steps lead, from 1 to the cleanest."""
    times = knots().times
    return _evenly(times[-1], times[0], len(orders(evaluations)) + 1)


def ratios(start: Tensor, end: Tensor, order: int) -> Tensor:
    """``(order,)`` shares of a step's lambda at which its inner points lie; the last is 1.

    The source goes through times and back, so they are thirds or a half up to rounding.
    """
    there = half_log_snr(_evenly(start, end, order + 1))
    return (there[1:] - there[0]) / (there[-1] - there[0])


@functools.lru_cache
def dpm_solver_stages(respacing: str) -> tuple[Stage, ...]:
    """The solver's stages.

    Args:
        respacing: a whole number as text, how often the network is evaluated.

    Raises:
        InputError: for anything but a number from 1 to 1000.
    """
    if not re.fullmatch("[0-9]{1,4}", respacing) or not 1 <= int(respacing) <= STEPS:
        raise InputError(
            f"draw.respacing={respacing!r}: dpm-solver takes the number of its evaluations, "
            f"from '1' to '{STEPS}', such as '14'"
        )
    times = step_times(int(respacing))
    steps = zip(times[:-1], times[1:], orders(int(respacing)), strict=True)
    return tuple(stage for start, end, order in steps for stage in _step(start, end, order))


def _step(start: Tensor, end: Tensor, order: int) -> list[Stage]:
    """The stages of one step (DPM-Solver++, algorithm 1 and its third-order kin).

    A state is written by its coefficients of (x, e_0, ..., e_{order-1}): the step's first state and
    the noises predicted on the way.
    """
    places = ratios(start, end, order)
    here, there = half_log_snr(torch.stack([start, end]))
    inner = time_at(here + places[:-1] * (there - here))
    times = torch.cat([start[None], inner, end[None]])
    alphas, sigmas = (f.double() for f in (log_alpha(times).exp(), sigma(times)))
    r, h = [0.0, *places.tolist()], float(there - here)
    state, *noises = torch.eye(order + 1, dtype=torch.float64, device="cpu")
    first, clean, stages = state, [], []
    told = network_time(times).tolist()
    for i in range(1, order + 1):  # to the i-th point from those before it
        clean.append((state - sigmas[i - 1] * noises[i - 1]) / alphas[i - 1])
        decay = math.expm1(-r[i] * h)
        state = sigmas[i] / sigmas[0] * first - alphas[i] * decay * clean[0]
        if i == order == 2:
            state = state - alphas[i] * decay / (2 * r[1]) * (clean[1] - clean[0])
        elif i > 1:
            slope = (clean[-1] - clean[0]) / r[i - 1]
            state = state + alphas[i] * (decay / h + r[i]) * slope
        factors = state.tolist()
        stages.append(Stage(told[i - 1], factors[0], tuple(factors[1 : i + 1]), ends=i == order))
    return stages
