"""Continuous latents: the Gaussian that an encoder predicts, and tokens drawn from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.tokenizers.tokenizer import fill_grid

LOGVAR = (-30.0, 20.0)  # the clamp of latent diffusion's autoencoder


class Posterior(NamedTuple):
    """Diagonal Gaussian predicted by the encoder."""

    mean: Tensor
    """``(B, C, h, w)``."""
    logvar: Tensor
    """``(B, C, h, w)``, clamped to [-30, 20]."""

    @property
    def std(self) -> Tensor:
        """``(B, C, h, w)``."""
        return torch.exp(0.5 * self.logvar)

    @property
    def kl(self) -> Tensor:
        """``(B,)`` divergence from the standard normal, in nats (VAE, arXiv 1312.6114, app. B)."""
        excess = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * excess.flatten(1).sum(1)

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std * noise``, ``(B, C, h, w)``, for standard normal noise of that shape.

        Raises:
            InputError: noise of another shape.
        """
        if noise.shape != self.mean.shape:
            raise InputError(
                f"noise of shape {tuple(noise.shape)} does not fit latents of shape "
                f"{tuple(self.mean.shape)}; draw one standard normal number for each"
            )
        return self.mean + self.std * noise


def posterior(moments: Tensor) -> Posterior:
    """Mean and log variance from ``(B, 2C, h, w)``, as a cache or an encoder gives them.

    Raises:
        InputError: another shape.
    """
    if moments.ndim != 4 or moments.shape[1] % 2:
        raise InputError(f"moments of shape {tuple(moments.shape)} are not (B, 2C, h, w)")
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean, logvar.clamp(*LOGVAR))


def drawn(moments: Tensor, noise: Tensor | None, *, channels: int, scale: float) -> Tensor:
    """Tokens of stored moments, ``scale * (mean + exp(logvar / 2) * noise)``.

    Args:
        moments: ``(B, 2C, h, w)`` mean and log variance, or ``(B, C, h, w)`` the latents themselves
            of an encoder without chance.
        noise: ``(B, C, h, w)`` standard normal; None takes the mean. Not looked at where there is
            no chance.
        channels: C.
        scale: factor from latents to tokens.

    Returns:
        ``(B, L, C)``, row-major.

    Raises:
        InputError: noise of another shape.
    """
    if moments.shape[1] != channels:
        told = posterior(moments)
        moments = told.mean if noise is None else told.sample(noise)
    return to_tokens(moments * scale)


def to_tokens(latents: Tensor) -> Tensor:
    """``(B, C, h, w)`` to ``(B, L, C)``, row-major (MAR's patches of one place)."""
    return latents.flatten(2).transpose(1, 2)


def to_map(latents: Tensor, channels: int, grid: tuple[int, int] | None = None) -> Tensor:
    """``(B, L, C)`` to ``(B, C, h, w)``, the reverse of :func:`to_tokens`.

    Raises:
        InputError: another number of channels, or tokens that do not fill the grid.
    """
    if latents.ndim != 3 or latents.shape[2] != channels or not latents.is_floating_point():
        kind = str(latents.dtype).removeprefix("torch.")
        raise InputError(
            f"{kind} latents of shape {tuple(latents.shape)} are not (B, L, {channels}); this "
            "tokenizer decodes floating point vectors of that many channels"
        )
    rows, columns = fill_grid(latents.shape[1], grid, "latents")
    return latents.transpose(1, 2).unflatten(2, (rows, columns))
