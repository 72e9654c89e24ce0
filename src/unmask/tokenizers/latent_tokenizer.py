"""What all tokenizers of continuous latents share: an encoder and a decoder of scaled vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor

from unmask.errors import InputError
from unmask.networks.sizes import Space, patch_of
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, Reconstruction, filled
from unmask.tokenizers.latents import drawn, posterior, to_map

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
        super().__init__(config)
        self.patch = config.patch_size if isinstance(config, Grouped) else 1
        self.channels, self.scale = channels * self.patch**2, scale
        self.moment_channels = self.channels * (1 if self.deterministic else 2)

    @property
    def space(self) -> Space:
        """("channels", C)."""
        return "channels", self.channels

    def forward(self, images: Tensor, noise: Tensor) -> Reconstruction:
        """Encode, draw and decode with gradients; of an encoder that predicts a Gaussian.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            noise: ``(B, C, h, w)`` standard normal.
        """
        moments = self.infer(images)  # (B, 2C, h, w)
        gaussian = posterior(moments)
        made = self.render(gaussian.sample(noise))
        nats = gaussian.kl.sum() / made.numel()  # a number of the image
        return Reconstruction(images=made, penalties={"kl": nats}, figures={}, latents=moments)

    def infer(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, moment_channels, h, w)``; unchecked.

        Mean and log variance, neither scaled nor clamped; or the unscaled latents.
        """
        encoded = self.encode_map(images)
        return F.pixel_unshuffle(encoded, self.patch) if self.patch > 1 else encoded

    def tokens(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """Stored moments to ``(B, L, C)`` scaled latents; see :func:`.latents.drawn`.

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
