"""The small convolutional encoder and decoder that are trained here, around any bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.tokenizers.image_tokenizer import BlockCounts, LevelConfig, Widths

GROUP = 8  # channels a normalisation group


@dataclass(frozen=True, kw_only=True)
class ConvStack(LevelConfig):
    """Shape of encoder and decoder."""

    widths: Widths = (32, 64, 128)
    """Channels at each level, finest first, multiples of 8; the stride is 2**(levels-1)."""
    blocks: BlockCounts = (0, 1, 1)
    """Residual blocks at each level, in the encoder and again in the decoder. A level of 0 leaves
    the work to its resampling convolutions: on a CPU the finest level costs the most time."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        if any(width % GROUP for width in self.widths):
            raise InputError(f"widths={self.widths} must be multiples of {GROUP}, one a level")
        if len(self.blocks) != len(self.widths):
            raise InputError(
                f"blocks={self.blocks} must give a number from 0 for each of the "
                f"{len(self.widths)} levels of widths={self.widths}"
            )


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


def conv_encoder(stack: ConvStack, channels: int) -> nn.Sequential:
    """``(B, C, H, W)`` images to ``(B, channels, h, w)``: stride-2 convolutions down."""
    layers: list[nn.Module] = [nn.Conv2d(stack.image_channels, stack.widths[0], 3, padding=1)]
    for level, (width, blocks) in enumerate(zip(stack.widths, stack.blocks, strict=True)):
        if level:
            down = nn.Conv2d(stack.widths[level - 1], width, 3, stride=2, padding=1)
            layers.extend((nn.SiLU(), down))
        layers.extend(ResidualBlock(width) for _ in range(blocks))
    last = stack.widths[-1]
    return nn.Sequential(*layers, _norm(last), nn.SiLU(), nn.Conv2d(last, channels, 1))


def conv_decoder(stack: ConvStack, channels: int) -> nn.Sequential:
    """``(B, channels, h, w)`` to ``(B, C, H, W)`` images."""
    layers: list[nn.Module] = [nn.Conv2d(channels, stack.widths[-1], 3, padding=1)]
    for level in reversed(range(len(stack.widths))):
        width = stack.widths[level]
        layers.extend(ResidualBlock(width) for _ in range(stack.blocks[level]))
        if level:
            # makes every map of nearest doubling and a 3x3 convolution, at 4/9 of the work
            up = nn.ConvTranspose2d(width, stack.widths[level - 1], 4, stride=2, padding=1)
            layers.extend((nn.SiLU(), up))
    first = stack.widths[0]
    out = nn.Conv2d(first, stack.image_channels, 3, padding=1)
    return nn.Sequential(*layers, _norm(first), nn.SiLU(), out)
