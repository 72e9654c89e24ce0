"""The bottleneck of latents: the Gaussian that an encoder predicts, and the tokenizer around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import InputError
from unmask.networks.sizes import Space, patch_of
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, Reconstruction, filled
from unmask.tokenizers.tokenizer import fill_grid

LOGVAR = (-30.0, 20.0)  # the clamp of latent diffusion's autoencoder


class Posterior(NamedTuple):
    """Diagonal Gaussian predicted by the encoder.

    Args:
        mean: ``(B, C, h, w)`` means.
        logvar: ``(B, C, h, w)`` logarithms of variances, clamped to [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """``(B, C, h, w)`` standard deviations."""
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
        gaussian = posterior(moments)
        moments = gaussian.mean if noise is None else gaussian.sample(noise)
    return to_tokens(moments * scale)  # (B, L, C)


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


Scale = Annotated[float, Between(above=0, at_most=1e6)]


@dataclass(frozen=True, kw_only=True)
class Grouped(ImageConfig):
    """Sizes of a tokenizer whose tokens may hold several places of the encoder's map."""

    patch_size: Annotated[int, Between(1, 64)] = 1
    """Places along the side of the square of latents that a token holds (MAR's --patch_size)."""

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return super().stride * self.patch_size


class LatentTokenizer(ImageTokenizer):
    """A tokenizer of latents made of two parts, which a family's class builds.

    The encoder takes images in the native range to mean and log variance, the decoder takes
    unscaled latents back. Where a token holds a square of their places, its numbers are ordered as
    MAR's (models/mar.py, ``patchify``): channel slowest, then row, then column; everything here is
    about tokens, moments too.
    """

    deterministic: ClassVar[bool] = False
    """True where the encoder gives the latents themselves, not a Gaussian."""

    def __init__(self, config: ImageConfig, channels: int, *, scale: float = 1.0) -> None:
        self.patch = config.patch_size if isinstance(config, Grouped) else 1
        self.channels, self.scale = channels * self.patch**2, scale
        super().__init__(config, ("channels", self.channels))
        self.moment_channels = self.channels * (1 if self.deterministic else 2)

    def forward(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Encode, draw and decode with gradients, where the encoder predicts a Gaussian.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            noise: ``(B, C, h, w)`` standard normal.
        """
        moments = self.infer(images)  # (B, 2C, h, w)
        gaussian = posterior(moments)
        made = self.render(gaussian.sample(noise))  # (B, C, H, W)
        nats = gaussian.kl.sum() / made.numel()  # a number of the image
        return Reconstruction(images=made, penalties={"kl": nats}, figures={}, latents=moments)

    def infer(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, moment_channels, h, w)``; unchecked.

        Mean and log variance, neither scaled nor clamped; or the unscaled latents.
        """
        encoded = self.encode_map(images)  # (B, M / p^2, p h, p w)
        return F.pixel_unshuffle(encoded, self.patch) if self.patch > 1 else encoded

    def tokens(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """Stored moments to ``(B, L, C)`` scaled latents; see :func:`.latent_tokenizer.drawn`.

        Args:
            stored: ``(B, moment_channels, h, w)``.
            noise: ``(B, C, h, w)`` standard normal; None takes the mean. Not looked at where the
                encoder is deterministic.

        Raises:
            InputError: shapes that do not fit this tokenizer or each other.
        """
        if stored.ndim != 4 or stored.shape[1] != self.moment_channels:
            raise InputError(
                f"moments of shape {tuple(stored.shape)} are not (B, {self.moment_channels}, h, "
                "w), what this tokenizer encodes to; use the tokenizer that made them"
            )
        return drawn(stored, noise, channels=self.channels, scale=self.scale)

    def vectors(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """``(B, L, C)`` scaled latents to ``(B, C, h, w)`` unscaled ones."""
        return to_map(tokens, self.channels, grid) / self.scale

    def render(self, values: Tensor) -> Tensor:
        """``(B, C, h, w)`` unscaled latents to images on the scale of [0, 1], not clamped."""
        return self.decode_map(F.pixel_shuffle(values, self.patch) if self.patch > 1 else values)

    def resized_for(self, space: Space) -> ImageTokenizer:
        """The tokenizer whose tokens hold as many numbers as a network reads of each.

        A network of p * p times a tokenizer's channels was trained on squares of so many latents
        (MAR's --patch_size p); no option besides says so.
        """
        kind, count = space
        if kind != "channels" or not isinstance(self.config, Grouped) or count == self.channels:
            return self
        patch = patch_of(count, self.channels // self.patch**2)
        if patch is None:
            return self
        return filled(replace(self.config, patch_size=patch).build, self.state_dict())
