"""A small convolutional VQ tokenizer that trains in minutes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.tokenizers.quantizer import VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer

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

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0)


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


class ConvVQTokenizer(VQTokenizer):
    """Residual convolutional encoder and decoder around a codebook.

    The shape of VQGAN (arXiv 2012.09841) without attention, at a size for small images: stride-2
    convolutions down, nearest doubling and a convolution up, GroupNorm and SiLU.
    """

    family = "conv_vq"

    def __init__(self, config: ConvVQ) -> None:
        super().__init__(config)
        self.encoder = _encoder(config)
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        self.decoder = _decoder(config)
        # a training step on a CPU gains about 15%; torch's own stub lacks this argument
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
