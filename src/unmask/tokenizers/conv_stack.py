"""The small convolutional tokenizers that are trained here: one stack around two bottlenecks.

The shape of VQGAN (arXiv 2012.09841) without attention, at a size for small images: stride-2
convolutions down, nearest doubling and a convolution up, GroupNorm and SiLU.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from unmask.errors import InputError
from unmask.networks.sizes import Channels
from unmask.tokenizers.image_tokenizer import BlockCounts, LevelConfig, Widths, channels_last
from unmask.tokenizers.latent_tokenizer import Grouped, LatentTokenizer, Scale
from unmask.tokenizers.vq_tokenizer import Codebook, VectorQuantizer, VQTokenizer
from unmask.tokenizers.vqgan_blocks import GroupNorm, ResidualBlock, group_norm

GROUP = 8  # channels a normalisation group


@dataclass(frozen=True, kw_only=True)
class ConvStack(LevelConfig):
    """Sizes of the encoder and the decoder."""

    widths: Widths = (32, 64, 128)
    """Channels at each level, finest first, multiples of 8; the stride is 2**(levels-1)."""
    blocks: BlockCounts = (0, 1, 1)
    """Residual blocks at each level, finest first, in the encoder and again in the decoder. A level
    of 0 has its resampling convolutions only: on a CPU the finest level costs the most time."""

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


@dataclass(frozen=True, kw_only=True)
class ConvVQ(ConvStack):
    """Sizes of a :class:`ConvVQTokenizer`."""

    codes: Codebook = 512
    """V, vectors in the codebook."""
    code_dim: Channels = 16
    """D, numbers per code vector; with few of them the codes are used more evenly."""
    l2_normalised: bool = True
    """Compare directions of latents and codes (cosine) instead of the vectors themselves."""

    def build(self) -> ConvVQTokenizer:
        """The tokenizer of these sizes, with random weights."""
        return ConvVQTokenizer(self)


@dataclass(frozen=True, kw_only=True)
class ConvKL(Grouped, ConvStack):
    """Sizes of a :class:`ConvKLTokenizer`."""

    channels: Channels = 8
    """C, numbers at each place of the encoder's map."""
    scale: Scale = 1.0
    """Factor from latents to tokens; the end of a training sets it to 1 over their spread."""

    def build(self) -> ConvKLTokenizer:
        """The tokenizer of these sizes, with random weights."""
        return ConvKLTokenizer(self)


class ConvVQTokenizer(VQTokenizer):
    """The stack around a codebook."""

    family = "conv_vq"

    def __init__(self, config: ConvVQ) -> None:
        super().__init__(config, config.codes)
        self.encoder = conv_encoder(config, config.code_dim)
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        self.decoder = conv_decoder(config, config.code_dim)
        channels_last(self)  # a training step on a CPU gains about 15%


class ConvKLTokenizer(LatentTokenizer):
    """The stack around a Gaussian.

    Latent diffusion's autoencoder (arXiv 2112.10752, sec. 3.1, "KL-reg.") at a size for small
    images.
    """

    family = "conv_kl"

    def __init__(self, config: ConvKL) -> None:
        super().__init__(config, config.channels, scale=config.scale)
        self.encoder = conv_encoder(config, 2 * config.channels)
        self.decoder = conv_decoder(config, config.channels)
        channels_last(self)


def conv_encoder(stack: ConvStack, channels: int) -> nn.Sequential:
    """``(B, C, H, W)`` images to ``(B, channels, h, w)``: stride-2 convolutions down."""
    layers: list[nn.Module] = [nn.Conv2d(stack.image_channels, stack.widths[0], 3, padding=1)]
    for level, width in enumerate(stack.widths):
        if level:
            down = nn.Conv2d(stack.widths[level - 1], width, 3, stride=2, padding=1)
            layers.extend((nn.SiLU(), down))
        layers.extend(_blocks(stack, level))
    last = stack.widths[-1]
    return nn.Sequential(*layers, _norm(last), nn.SiLU(), nn.Conv2d(last, channels, 1))


def conv_decoder(stack: ConvStack, channels: int) -> nn.Sequential:
    """``(B, channels, h, w)`` to ``(B, C, H, W)`` images."""
    layers: list[nn.Module] = [nn.Conv2d(channels, stack.widths[-1], 3, padding=1)]
    for level in reversed(range(len(stack.widths))):
        layers.extend(_blocks(stack, level))
        if level:
            # makes every map of nearest doubling and a 3x3 convolution, at 4/9 of the work
            width, finer = stack.widths[level], stack.widths[level - 1]
            layers.extend((nn.SiLU(), nn.ConvTranspose2d(width, finer, 4, stride=2, padding=1)))
    first = stack.widths[0]
    out = nn.Conv2d(first, stack.image_channels, 3, padding=1)
    return nn.Sequential(*layers, _norm(first), nn.SiLU(), out)


def _blocks(stack: ConvStack, level: int) -> list[ResidualBlock]:
    width = stack.widths[level]
    count = stack.blocks[level]
    return [ResidualBlock(width, width, groups=width // GROUP) for _ in range(count)]


def _norm(width: int) -> GroupNorm:
    return group_norm(width, width // GROUP)
