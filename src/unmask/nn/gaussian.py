"""Gaussian diffusion of a token: the cosine process, its shorter versions, and two ways back.

Improved DDPM (arXiv 2102.09672) as MAR uses it: 1000 steps, the noise is predicted, the variance is
learned between its two bounds, and nothing is clipped. Tables are float64.

A sampler is a list of :class:`Stage`: plain numbers, computed once, of which the loop in
:mod:`unmask.nn.diffusion` needs to know nothing more. Letters: ``S`` steps of a process, ``R``
repeats, ``M`` tokens, ``C`` latent channels.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError

STEPS = 1000
PIXEL = 1 / 255  # half a bin of the discretised likelihood, as for images in [-1, 1]
EDGE = 0.999  # beyond it the outermost bin takes the whole tail


class Stage(NamedTuple):
    """One evaluation of the network, and the state that follows from it.

    With x the state at the start of the step and e_0, e_1, ... the noises predicted since then, the
    next state is ``state x + noises[0] e_0 + noises[1] e_1 + ...``.

    Args:
        time: Diffusion time that the network is told, in [0, 1000).
        state: Factor of the state.
        noises: Factors of the predicted noises, the oldest first.
        ends: Whether a new step starts here; else the next state is only a point to look from.
        spread: Fresh noise enters times ``spread exp(tilt v)``, v being the variance output; 0 for
            none.
        tilt: Exponent of the fresh noise's factor ``spread exp(tilt v)``.
    """

    time: float
    state: float
    noises: tuple[float, ...]
    ends: bool = True
    spread: float = 0.0
    tilt: float = 0.0


class Process(NamedTuple):
    """Some of the 1000 steps as a process of their own, k = 0 being the cleanest.

    Tables are ``(S,)`` float64. The posterior is the law of the state before step k, given the
    state after it and the clean latents.

    Args:
        times: ``(S,)`` int64, the steps kept: the network always hears the original number.
        betas: Variance added by each step.
        signal: Share of the clean variance left after step k, the product of 1 - beta.
        signal_before: Share of the clean variance left before step k; 1 for the first.
        posterior_variance: Variance of the posterior; 0 at k = 0, where it is certain.
        posterior_log_variance: Logarithm of that variance, the value at k = 0 being that of k = 1.
        posterior_clean: Factor of the clean latents in the posterior's mean.
        posterior_state: Factor of the state after step k in the posterior's mean.
        clean_state: Factor of the state in the predicted clean latents.
        clean_noise: Factor of the predicted noise that is subtracted in the predicted clean
            latents.
    """

    times: Tensor
    betas: Tensor
    signal: Tensor
    signal_before: Tensor
    posterior_variance: Tensor
    posterior_log_variance: Tensor
    posterior_clean: Tensor
    posterior_state: Tensor
    clean_state: Tensor
    clean_noise: Tensor


def cosine_betas() -> Tensor:
    """``(1000,)`` float64, the cosine schedule (improved DDPM, eq. 17), at most 0.999 each."""
    shares = [math.cos((i / STEPS + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(STEPS + 1)]
    betas = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(shares)]
    return torch.tensor(betas, dtype=torch.float64, device="cpu")


@functools.lru_cache
def process(respacing: str = "") -> Process:
    """The process over the steps that a string keeps; see :func:`kept_steps`."""
    betas = cosine_betas()
    kept = torch.tensor(kept_steps(respacing), device="cpu")
    if len(kept) < STEPS:
        signal = (1 - betas).cumprod(0)[kept]
        betas = 1 - signal / _before(signal)
    signal = (1 - betas).cumprod(0)
    before = _before(signal)
    variance = betas * (1 - before) / (1 - signal)
    return Process(
        times=kept,
        betas=betas,
        signal=signal,
        signal_before=before,
        posterior_variance=variance,
        posterior_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
        posterior_clean=betas * before.sqrt() / (1 - signal),
        posterior_state=(1 - before) * (1 - betas).sqrt() / (1 - signal),
        clean_state=(1 / signal).sqrt(),
        clean_noise=(1 / signal - 1).sqrt(),
    )


def _before(signal: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(signal[:1]), signal[:-1]])


def kept_steps(respacing: str) -> list[int]:
    """Numbers of the steps, of 1000, that a string keeps, ascending.

    Args:
        respacing: "" for all; "ddimN" for N at the smallest whole stride from 0 that leaves N,
            which avoids step 999, where the predicted clean latents amplify every error 20,000
            times; "N", or "a,b,c" for so many in equal sections, each with both its ends.

    Raises:
        InputError: for another form, a number that cannot be kept, or fewer than two steps.
    """
    if respacing == "":
        return list(range(STEPS))
    if re.fullmatch("ddim[0-9]+", respacing):
        kept = _by_stride(respacing, int(respacing.removeprefix("ddim")))
    elif re.fullmatch("[0-9]+(,[0-9]+)*", respacing):
        kept = _by_section(respacing, [int(count) for count in respacing.split(",")])
    else:
        raise InputError(
            f"draw.respacing={respacing!r} is none of its forms: empty for all {STEPS} steps, "
            "'ddim25' for 25 at a whole stride, '100' or '10,15,20' for so many by section"
        )
    if len(kept) < 2:
        raise InputError(
            f"draw.respacing={respacing!r} leaves {len(kept)} of {STEPS} steps, which cannot be "
            "sampled; keep at least 2"
        )
    return kept


def _by_stride(respacing: str, count: int) -> list[int]:
    lengths = {len(range(0, STEPS, stride)): stride for stride in range(STEPS, 0, -1)}
    if count not in lengths:
        near = min(lengths, key=lambda length: abs(length - count))
        raise InputError(
            f"draw.respacing={respacing!r}: no whole stride leaves {count} of {STEPS} steps; "
            f"'ddim{near}' is the nearest that does"
        )
    return list(range(0, STEPS, lengths[count]))


def _by_section(respacing: str, counts: list[int]) -> list[int]:
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = STEPS // len(counts) + (section < STEPS % len(counts))
        if count > size:
            raise InputError(
                f"draw.respacing={respacing!r} asks for {count} of a section's {size} steps; "
                f"use at most {size}"
            )
        stride = 1.0 if count <= 1 else (size - 1) / (count - 1)
        place = 0.0
        for _ in range(count):
            kept.append(start + round(place))
            place += stride  # summed, not multiplied: rounding decides some of the kept steps
        start += size
    return kept


@functools.lru_cache
def ddpm_stages(respacing: str) -> tuple[Stage, ...]:
    """Ancestral sampling with the learned variance (improved DDPM, eq. 15), the noisiest first."""
    path = process(respacing)
    state = path.posterior_clean * path.clean_state + path.posterior_state
    noise = -path.posterior_clean * path.clean_noise
    upper, lower = path.betas.log(), path.posterior_log_variance
    # exp(log variance / 2) = exp((upper + lower) / 4) exp(v (upper - lower) / 4)
    spread, tilt = ((upper + lower) / 4).exp(), (upper - lower) / 4
    spread[0] = 0
    rows = torch.stack([path.times.double(), state, noise, spread, tilt], dim=1).flip(0)
    return tuple(Stage(t, a, (b,), spread=c, tilt=d) for t, a, b, c, d in rows.tolist())


@functools.lru_cache
def ddim_stages(respacing: str) -> tuple[Stage, ...]:
    """DDIM without fresh noise (arXiv 2010.02502, eq. 12 with sigma = 0), the noisiest first."""
    path = process(respacing)
    before = path.signal_before
    state = before.sqrt() * path.clean_state
    noise = (1 - before).sqrt() - before.sqrt() * path.clean_noise
    rows = torch.stack([path.times.double(), state, noise], dim=1).flip(0)
    return tuple(Stage(time, a, (b,)) for time, a, b in rows.tolist())


def loss_table() -> Tensor:
    """``(1000, 5)`` float32, what the loss reads at a step.

    sqrt(signal), sqrt(1 - signal), the width and the lower end of the log variance's range, and the
    factor of the squared error in the divergence (see :func:`variational_bits`).
    """
    path = process()
    lower = path.posterior_log_variance
    weight = path.betas / ((1 - path.betas) * (1 - path.signal_before))
    weight[0] = 0  # where the likelihood stands in its place
    columns = (
        path.signal.sqrt(),
        (1 - path.signal).sqrt(),
        path.betas.log() - lower,
        lower,
        weight,
    )
    return torch.stack(columns, dim=1).float()


def variational_bits(
    error: Tensor, variance: Tensor, *, clean: Tensor, first: Tensor, row: tuple[Tensor, ...]
) -> Tensor:
    """The bound's term that teaches the variance (improved DDPM, eqs. 4-6), in bits a channel.

    Both Gaussians have the same covariance structure, and the difference of their means is a
    multiple of the noise's error e. With d = log variance - its lower end, the divergence is then
    (d - 1 + exp(-d) (1 + weight e^2)) / 2.

    Args:
        error: ``(R, M, C)`` predicted minus true noise, without gradient.
        variance: ``(R, M, C)`` the network's v; -1 is the lower end of the range, 1 the upper.
        clean: ``(M, C)`` clean latents.
        first: ``(R, M, 1)`` bool, where the step is 0: a discretised likelihood instead.
        row: the five columns of :func:`loss_table`, ``(R, M, 1)`` each.

    Returns:
        ``(R, M)`` float32.
    """
    signal, noise, width, lower, weight = row
    above = (variance + 1) / 2 * width  # (R, M, C)
    divergence = (above - 1 + (-above).exp() * (1 + weight * error.square())) / 2
    shift = error * (noise / signal)  # clean minus predicted clean
    likelihood = _log_likelihood(clean, shift, (-(lower + above) / 2).exp())
    return torch.where(first, -likelihood, divergence).mean(-1) / math.log(2)  # (R, M)


def _log_likelihood(clean: Tensor, shift: Tensor, sharpness: Tensor) -> Tensor:
    """``(R, M, C)`` log probability of the bin around ``clean``, the mean ``shift`` below it."""
    upper = _normal_cdf(sharpness * (shift + PIXEL))
    lower = _normal_cdf(sharpness * (shift - PIXEL))
    inside = torch.where(clean > EDGE, 1 - lower, upper - lower)
    return torch.where(clean < -EDGE, upper, inside).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation of the source, which differs from erf by up to 3e-4."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
