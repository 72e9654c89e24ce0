"""VQGAN (taming-transformers), and LlamaGen's and aMUSEd's tokenizers, which are its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from unmask.errors import InputError
from unmask.tokenizers.maskgit_vqgan import check_widths
from unmask.tokenizers.quantizer import VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan_blocks import (
    GROUPS,
    AttentionBlock,
    Downsample,
    Level,
    ResidualBlock,
    Upsample,
    decoder,
    encoder,
    group_norm,
)

Pixels = Literal["signed", "unit"]


@dataclass(frozen=True, kw_only=True)
class VQGAN:
    """Shape of a :class:`VQGANTokenizer`; the defaults are VQGAN f16 with 16384 codes."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    stem: int = 128
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""
    decoder_widths: tuple[int, ...] = ()
    """The same of the decoder; empty means equal."""
    blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: tuple[int, ...] = (4,)
    """Levels with attention after every block, 0 the finest."""
    middle_attention: bool = True
    """Whether attention stands between the two middle blocks."""
    latent_channels: int = 256
    """Channels before the projection to codes."""
    codes: int = 16384
    """V, vectors in the codebook."""
    code_dim: int = 256
    """D, numbers a code."""
    l2_normalised: bool = False
    """Compare directions instead of vectors (LlamaGen)."""
    groups: int = GROUPS
    """Of every normalisation."""
    pixels: Pixels = "signed"
    """What the network sees of an image: "signed" is [-1, 1], "unit" is [0, 1]. aMUSEd was trained
    on "unit", and its own pipeline decodes so; maskgit-pytorch, its cached codes and its published
    scores use "signed"."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        check_widths((self.stem, *self.widths, *self.decoder_widths), self.groups)
        if len(self.upward) != len(self.widths):
            raise InputError(
                f"decoder_widths={self.decoder_widths} must name the {len(self.widths)} levels of "
                f"widths={self.widths}, or none"
            )
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise InputError(f"attention={self.attention} names a level not in widths")

    @property
    def upward(self) -> tuple[int, ...]:
        """Widths of the decoder's levels, finest first."""
        return self.decoder_widths or self.widths

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0) if self.pixels == "signed" else (0.0, 1.0)


class VQGANTokenizer(VQTokenizer):
    """Residual blocks with strided convolutions down and nearest doubling up, some attention.

    As in CompVis/taming-transformers (arXiv 2012.09841); LlamaGen (arXiv 2406.06525) l2-normalises
    the codes, aMUSEd (diffusers' ``VQModel``) leaves attention out.
    """

    family = "vqgan"

    def __init__(self, config: VQGAN) -> None:
        super().__init__(config)
        lowest, highest = config.widths[-1], config.upward[0]
        self.encoder = encoder(
            nn.Conv2d(config.image_channels, config.stem, 3, padding=1),
            _encoder_levels(config),
            _middle(config, lowest),
            (_norm(config, lowest), nn.Conv2d(lowest, config.latent_channels, 3, padding=1)),
            nn.Conv2d(config.latent_channels, config.code_dim, 1),
        )
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        lowest = config.upward[-1]
        self.decoder = decoder(
            nn.Conv2d(config.latent_channels, lowest, 3, padding=1),
            _decoder_levels(config),
            _middle(config, lowest),
            (_norm(config, highest), nn.Conv2d(highest, config.image_channels, 3, padding=1)),
            nn.Conv2d(config.code_dim, config.latent_channels, 1),
        )


def _norm(config: VQGAN, width: int) -> nn.GroupNorm:
    return group_norm(width, config.groups)


def _middle(config: VQGAN, width: int) -> list[nn.Module]:
    parts: list[nn.Module] = [ResidualBlock(width, width, groups=config.groups) for _ in range(2)]
    if config.middle_attention:
        parts.insert(1, AttentionBlock(width, groups=config.groups))
    return parts


def _level(
    config: VQGAN, level: int, widths: tuple[int, int], blocks: int, resample: nn.Module | None
) -> Level:
    width_in, width = widths
    first = ResidualBlock(width_in, width, groups=config.groups)
    rest = [ResidualBlock(width, width, groups=config.groups) for _ in range(blocks - 1)]
    attends = blocks if level in config.attention else 0
    attention = [AttentionBlock(width, groups=config.groups) for _ in range(attends)]
    return Level([first, *rest], attention, resample)


def _encoder_levels(config: VQGAN) -> list[Level]:
    levels, width_in = [], config.stem
    for level, width in enumerate(config.widths):
        down = Downsample(width) if level < len(config.widths) - 1 else None
        levels.append(_level(config, level, (width_in, width), config.blocks, down))
        width_in = width
    return levels


def _decoder_levels(config: VQGAN) -> list[Level]:
    """Lowest resolution first."""
    levels, width_in = [], config.upward[-1]
    for level, width in reversed(list(enumerate(config.upward))):
        up = Upsample(width) if level > 0 else None
        levels.append(_level(config, level, (width_in, width), config.blocks + 1, up))
        width_in = width
    return levels
