"""What every tokenizer of continuous latents offers, and the Gaussian that its encoder tells."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.tokenizers.tokenizer import Coder, fill_grid

LOGVAR = (-30.0, 20.0)  # the clamp of latent diffusion's autoencoder


@runtime_checkable
class ContinuousTokenizer(Coder, Protocol):
    """Images in, vectors out, and back; latents are scaled."""

    channels: int
    """C, numbers a token."""
    moment_channels: int
    """What a cache stores of each place: 2C, or C where the encoder is deterministic."""
    scale: float
    """Of the decoder's latents to the tokens, which then have a spread of about 1."""

    def moments(self, images: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` in [0, 1] to ``(B, moment_channels, h, w)``.

        Mean and unclamped log variance, or where the encoder is deterministic the latents. They are
        not scaled; this is what a cache of latents holds.
        """

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Latents from moments and ``(B, C, h, w)`` standard normal numbers.

        Where the encoder is deterministic the noise is not looked at.

        Returns:
            ``(B, L, C)`` scaled, row-major.
        """

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """``sample(moments(images), noise)``."""

    def decode(self, latents: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L, C)`` scaled latents to ``(B, 3 or 1, H, W)`` float32, clamped to [0, 1].

        Without a grid the tokens are taken to form a square.
        """


class Posterior(NamedTuple):
    """The Gaussian that an encoder tells, independent in every number."""

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
