"""A small convolutional VQ tokenizer that trains in minutes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.tokenizers.quantizer import Quantized, VectorQuantizer
from unmask.tokenizers.tokenizer import (
    check_images,
    from_native,
    resolve_grid,
    square_grid,
    to_native,
    weights_identity,
)

GROUP = 8  # channels a normalisation group


@dataclass(frozen=True, kw_only=True)
class ConvVQ:
    """Shape of a :class:`ConvVQTokenizer`."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels at each level, finest first, multiples of 8; the stride is 2**(levels-1)."""
    blocks: tuple[int, ...] = (0, 1, 1)
    """Residual blocks at each level, in the encoder and again in the decoder. A level of 0 leaves
    the work to its resampling convolutions: on a CPU the finest level costs the most time."""
    codes: int = 512
    """V, vectors in the codebook."""
    code_dim: int = 16
    """D, numbers a code; few make nearest codes easier to use evenly."""
    l2_normalised: bool = True
    """Compare directions instead of vectors."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        if self.image_channels not in (1, 3):
            raise InputError(f"image_channels={self.image_channels}: wanted is 1 or 3")
        if not self.widths or any(w < GROUP or w % GROUP for w in self.widths):
            raise InputError(f"widths={self.widths} must be multiples of {GROUP}, one a level")
        if len(self.blocks) != len(self.widths) or min(self.blocks) < 0:
            raise InputError(
                f"blocks={self.blocks} must give a number from 0 for each of the "
                f"{len(self.widths)} levels of widths={self.widths}"
            )

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)


class Reconstruction(NamedTuple):
    """Images after one pass through a tokenizer in training."""

    images: Tensor
    """``(B, C, H, W)`` on the scale of [0, 1], not clamped."""
    latents: Tensor
    """``(B, h, w, D)`` encoder outputs before quantisation."""
    quantized: Quantized
    """With values ``(B, h, w, D)`` and ids ``(B, h, w)``."""


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // GROUP, width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input; the shape stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


def _encoder(config: ConvVQ) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(config.image_channels, config.widths[0], 3, padding=1)]
    for level, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
        if level:
            down = nn.Conv2d(config.widths[level - 1], width, 3, stride=2, padding=1)
            layers.extend((nn.SiLU(), down))
        layers.extend(ResidualBlock(width) for _ in range(blocks))
    last = config.widths[-1]
    return nn.Sequential(*layers, _norm(last), nn.SiLU(), nn.Conv2d(last, config.code_dim, 1))


def _decoder(config: ConvVQ) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(config.code_dim, config.widths[-1], 3, padding=1)]
    for level in reversed(range(len(config.widths))):
        width = config.widths[level]
        layers.extend(ResidualBlock(width) for _ in range(config.blocks[level]))
        if level:
            # makes every map of nearest doubling and a 3x3 convolution, at 4/9 of the work
            up = nn.ConvTranspose2d(width, config.widths[level - 1], 4, stride=2, padding=1)
            layers.extend((nn.SiLU(), up))
    first = config.widths[0]
    out = nn.Conv2d(first, config.image_channels, 3, padding=1)
    return nn.Sequential(*layers, _norm(first), nn.SiLU(), out)


class ConvVQTokenizer(nn.Module):
    """Residual convolutional encoder and decoder around a codebook; a ``Tokenizer``.

    The shape of VQGAN (arXiv 2012.09841) without attention, at a size for small images: stride-2
    convolutions down, nearest doubling and a convolution up, GroupNorm and SiLU.
    """

    native_range = (-1.0, 1.0)

    def __init__(self, config: ConvVQ) -> None:
        super().__init__()
        self.config = config
        self.codes = config.codes
        self.stride = config.stride
        self.image_channels = config.image_channels
        self.encoder = _encoder(config)
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        self.decoder = _decoder(config)
        # a training step on a CPU gains about 15%; torch's own stub lacks this argument
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of configuration and weights, computed on each access."""
        config = json.dumps({"family": "conv_vq", **asdict(self.config)}, sort_keys=True)
        return weights_identity(config, self.named_parameters())

    def grid(self, image_size: int) -> tuple[int, int]:
        """Rows and columns of tokens of a square image; InputError off the stride."""
        return square_grid(image_size, self.stride)

    def latents(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, h, w, D)`` encoder outputs."""
        return self.encoder(to_native(images, self.native_range)).permute(0, 2, 3, 1)

    def render(self, values: Tensor) -> Tensor:
        """``(B, h, w, D)`` code vectors to ``(B, C, H, W)`` on the scale of [0, 1], unclamped."""
        return from_native(self.decoder(values.permute(0, 3, 1, 2)), self.native_range)

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantise and decode with gradients; ``(B, C, H, W)`` in [0, 1]."""
        latents = self.latents(images)
        quantized = self.quantizer(latents)
        return Reconstruction(self.render(quantized.values), latents, quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` float32 in [0, 1] to ``(B, L)`` int64 ids, row-major.

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        return self.quantizer(self.latents(images)).ids.flatten(1)

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L)`` ids to ``(B, C, H, W)`` float32, clamped to [0, 1].

        Raises:
            InputError: ids that are no codes, or tokens that do not fill the grid.
        """
        rows, columns = resolve_grid(ids, self.codes, grid)
        values = self.quantizer.lookup(ids.view(-1, rows, columns))
        return self.render(values).float().clamp(0, 1)
