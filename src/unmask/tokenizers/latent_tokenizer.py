"""What all tokenizers of continuous latents share: an encoder and a decoder of scaled vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import InputError
from unmask.networks.sizes import patch_of
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, filled
from unmask.tokenizers.latents import Posterior, posterior, to_map, to_tokens
from unmask.tokenizers.tokenizer import check_images

Kept = TypeVar("Kept", bound=ImageTokenizer)
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


class LatentReconstruction(NamedTuple):
    """Images after one pass through a tokenizer in training."""

    images: Tensor
    """``(B, C, H, W)`` on the scale of [0, 1], not clamped."""
    posterior: Posterior
    """What the encoder tells."""

    @property
    def penalties(self) -> dict[str, Tensor]:
        """What the bottleneck adds to the loss: the divergence in nats a number of the image."""
        return {"kl": self.posterior.kl.sum() / self.images.numel()}


class LatentTokenizer(ImageTokenizer):
    """A ``ContinuousTokenizer`` made of two parts, which a family's class builds.

    The encoder takes images in the native range to mean and log variance, the decoder takes
    unscaled latents back. Where a token holds a square of their places, its numbers are ordered as
    MAR's (models/mar.py, ``patchify``): channel slowest, then row, then column; everything here is
    about tokens, moments too. Encode in float32, without autocast, to get the
    latents that published models were trained on.
    """

    makes = "latents"
    deterministic: ClassVar[bool] = False
    """Whether the encoder tells the latents themselves, not a Gaussian."""

    def __init__(self, config: ImageConfig, channels: int, *, scale: float = 1.0) -> None:
        super().__init__(config)
        self.patch = config.patch_size if isinstance(config, Grouped) else 1
        self.channels, self.scale = channels * self.patch**2, scale
        self.moment_channels = self.channels * (1 if self.deterministic else 2)

    def infer(self, images: Tensor) -> Tensor:
        """:meth:`moments` with gradients and without checks."""
        seen = self.look(images)
        return F.pixel_unshuffle(seen, self.patch) if self.patch > 1 else seen

    def forward(self, images: Tensor, noise: Tensor) -> LatentReconstruction:
        """Encode, draw and decode with gradients; of an encoder that tells a Gaussian.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            noise: ``(B, C, h, w)`` standard normal.
        """
        told = posterior(self.infer(images))
        return LatentReconstruction(self.render(told.sample(noise)), told)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` of any float in [0, 1] to ``(B, moment_channels, h, w)`` float32.

        Mean and log variance, neither scaled nor clamped; or the unscaled latents.

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        return self.infer(images.float()).float()

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Moments and ``(B, C, h, w)`` standard normal to ``(B, L, C)`` scaled latents.

        ``scale * (mean + exp(logvar / 2) * noise)``, the log variance clamped to [-30, 20]; or
        ``scale * moments`` of a deterministic encoder, whatever the noise.

        Raises:
            InputError: shapes that do not fit this tokenizer or each other.
        """
        if moments.ndim != 4 or moments.shape[1] != self.moment_channels:
            raise InputError(
                f"moments of shape {tuple(moments.shape)} are not (B, {self.moment_channels}, h, "
                "w), what this tokenizer encodes to; use the tokenizer that made them"
            )
        latents = moments if self.deterministic else posterior(moments).sample(noise)
        return to_tokens(latents * self.scale)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` in [0, 1] to ``(B, L, C)`` scaled latents, row-major.

        Args:
            images: of any float.
            noise: ``(B, C, h, w)`` standard normal; zeros give the mean.

        Raises:
            InputError: as of :meth:`moments` and :meth:`sample`.
        """
        return self.sample(self.moments(images), noise)

    def render(self, latents: Tensor) -> Tensor:
        """``(B, C, h, w)`` unscaled latents to images on the scale of [0, 1], not clamped."""
        return self.paint(F.pixel_shuffle(latents, self.patch) if self.patch > 1 else latents)

    @torch.no_grad()
    def decode(self, latents: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L, C)`` scaled latents to ``(B, 3 or 1, H, W)`` float32, clamped to [0, 1].

        Raises:
            InputError: latents of other channels, or that do not fill the grid.
        """
        unscaled = to_map(latents, self.channels, grid) / self.scale
        return self.render(unscaled).float().clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` in [0, 1] as they come back from the mean of their latents.

        Raises:
            InputError: as of :meth:`moments`.
        """
        moments = self.moments(images)
        noise = torch.zeros_like(moments[:, : self.channels])
        rows, columns = moments.shape[2:]
        return self.decode(self.sample(moments, noise), (rows, columns))


def grouped_for(tokenizer: Kept, channels: int | None) -> Kept:
    """A tokenizer whose tokens hold as many numbers as a network reads of each.

    A network of p * p times a tokenizer's channels was trained on squares of so many latents (MAR's
    --patch_size p); no option besides says so. Where there is no such p, the tokenizer is returned
    as it is, and whoever puts both together says what does not fit.

    Args:
        tokenizer: of codes or of latents.
        channels: of the network; None where it reads codes.
    """
    if not isinstance(tokenizer, LatentTokenizer) or channels is None:
        return tokenizer
    config = tokenizer.config
    if not isinstance(config, Grouped) or tokenizer.channels == channels:
        return tokenizer
    patch = patch_of(channels, tokenizer.channels // config.patch_size**2)
    if patch is None:
        return tokenizer
    sizes = replace(config, patch_size=patch)
    return cast(Kept, filled(partial(type(tokenizer), sizes), tokenizer.state_dict()))
