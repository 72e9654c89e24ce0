"""KL-16, the autoencoder of latent diffusion whose latents MAR and eMIGM generate."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.tokenizers.latents import posterior, to_map, to_tokens
from unmask.tokenizers.maskgit_vqgan import check_widths
from unmask.tokenizers.tokenizer import (
    check_images,
    from_native,
    square_grid,
    to_native,
    weights_identity,
)
from unmask.tokenizers.vqgan_blocks import GROUPS
from unmask.tokenizers.vqgan_stack import Stack, stacked_decoder, stacked_encoder


@dataclass(frozen=True, kw_only=True)
class KLVAE:
    """Shape of a :class:`KLVAETokenizer`; the defaults are KL-16."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    stem: int = 128
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""
    blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: tuple[int, ...] = (4,)
    """Levels of the encoder with attention after every block, 0 the finest; the decoder has
    attention in its middle only."""
    channels: int = 16
    """C, numbers a token."""
    groups: int = GROUPS
    """Of every normalisation."""
    scale: float = 0.2325
    """Of latents to tokens (MAR and eMIGM: 1 over the spread of KL-16's on ImageNet)."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        check_widths((self.stem, *self.widths), self.groups)
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise InputError(f"attention={self.attention} names a level not in widths")
        if self.channels < 1:
            raise InputError(f"channels={self.channels} must be at least 1")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise InputError(f"scale={self.scale} must be a positive number")

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0)


class KLVAETokenizer(nn.Module):
    """A ``ContinuousTokenizer``: VQGAN's stacks around a Gaussian instead of a codebook.

    As in CompVis/latent-diffusion's ``AutoencoderKL`` (arXiv 2112.10752) and mar: models/vae.py.
    Encode in float32, without autocast, to get the latents that published models were trained on.
    """

    family = "kl_vae"

    def __init__(self, config: KLVAE) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        self.stride = config.stride
        self.scale = config.scale
        self.image_channels = config.image_channels
        self.native_range = config.native_range
        self.encoder = stacked_encoder(
            _stack(config, 2 * config.channels, config.blocks, config.attention)
        )
        self.decoder = stacked_decoder(_stack(config, config.channels, config.blocks + 1, ()))

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of configuration and weights, computed on each access."""
        config = json.dumps({"family": self.family, **asdict(self.config)}, sort_keys=True)
        return weights_identity(config, self.named_parameters())

    def grid(self, image_size: int) -> tuple[int, int]:
        """Rows and columns of tokens of a square image; InputError off the stride."""
        return square_grid(image_size, self.stride)

    def infer(self, images: Tensor) -> Tensor:
        """:meth:`moments` with gradients and without checks."""
        return self.encoder(to_native(images, self.native_range))

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` float32 in [0, 1] to ``(B, 2C, h, w)`` float32.

        Mean and log variance, neither scaled nor clamped.

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        return self.infer(images).float()

    def sample(self, moments: Tensor, noise: Tensor) -> Tensor:
        """``(B, 2C, h, w)`` and ``(B, C, h, w)`` standard normal to ``(B, L, C)`` scaled latents.

        ``scale * (mean + exp(logvar / 2) * noise)``, the log variance clamped to [-30, 20].

        Raises:
            InputError: shapes that do not fit this tokenizer or each other.
        """
        if moments.ndim != 4 or moments.shape[1] != 2 * self.channels:
            raise InputError(
                f"moments of shape {tuple(moments.shape)} are not (B, {2 * self.channels}, h, w), "
                "what this tokenizer encodes to; use the tokenizer that made them"
            )
        return to_tokens(posterior(moments).sample(noise) * self.scale)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` in [0, 1] to ``(B, L, C)`` scaled latents, row-major.

        Args:
            images: float32.
            noise: ``(B, C, h, w)`` standard normal; zeros give the mean.

        Raises:
            InputError: as of :meth:`moments` and :meth:`sample`.
        """
        return self.sample(self.moments(images), noise)

    def render(self, latents: Tensor) -> Tensor:
        """``(B, C, h, w)`` unscaled latents to images on the scale of [0, 1], not clamped."""
        return from_native(self.decoder(latents), self.native_range)

    @torch.no_grad()
    def decode(self, latents: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L, C)`` scaled latents to ``(B, 3 or 1, H, W)`` float32, clamped to [0, 1].

        Raises:
            InputError: latents of other channels, or that do not fill the grid.
        """
        unscaled = to_map(latents, self.channels, grid) / self.scale
        return self.render(unscaled).float().clamp(0, 1)


def _stack(config: KLVAE, channels: int, blocks: int, attention: tuple[int, ...]) -> Stack:
    """One side; ``channels`` at the end of the latents."""
    return Stack(
        image_channels=config.image_channels,
        stem=config.stem,
        widths=config.widths,
        blocks=blocks,
        attention=attention,
        middle_attention=True,
        latent_channels=channels,
        projected=channels,
        groups=config.groups,
    )
