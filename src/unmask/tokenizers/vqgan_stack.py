"""VQGAN's encoder and decoder from a few sizes; KL-16 of latent diffusion has the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import nn

from unmask.nn.sizes import Channels
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import LevelConfig, Levels
from unmask.tokenizers.vqgan_blocks import (
    GROUPS,
    AttentionBlock,
    Downsample,
    ResidualBlock,
    Upsample,
    check_widths,
    decoder,
    encoder,
    group_norm,
    levels,
)


@dataclass(frozen=True, kw_only=True)
class StackConfig(LevelConfig):
    """Sizes of both sides of an autoencoder."""

    stem: Channels = 128
    """Channels after the first convolution."""
    blocks: Annotated[int, Between(0, 100)] = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: Levels = (4,)
    """Levels with attention after every block, 0 the finest."""
    groups: Channels = GROUPS
    """Of every normalisation."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        check_widths((self.stem, *self.widths), self.groups)
        self.check_attention(self.attention)


def stacked_encoder(
    sizes: StackConfig, latents: int, projected: int, *, middle_attention: bool = True
) -> nn.Sequential:
    """``(B, C, H, W)`` images to ``(B, projected, h, w)``.

    Args:
        sizes: of the encoder.
        latents: channels of the 3x3 convolution at the end.
        projected: channels beyond the 1x1 projection there.
        middle_attention: whether attention stands between the two middle blocks.
    """
    lowest = sizes.widths[-1]
    return encoder(
        nn.Conv2d(sizes.image_channels, sizes.stem, 3, padding=1),
        levels(
            sizes.stem,
            sizes.widths,
            partial(ResidualBlock, groups=sizes.groups),
            blocks=sizes.blocks,
            resample=Downsample,
            attention=sizes.attention,
            groups=sizes.groups,
        ),
        _middle(sizes, attends=middle_attention),
        (group_norm(lowest, sizes.groups), nn.Conv2d(lowest, latents, 3, padding=1)),
        nn.Conv2d(latents, projected, 1),
    )


def stacked_decoder(
    sizes: StackConfig, latents: int, projected: int, *, middle_attention: bool = True
) -> nn.Sequential:
    """``(B, projected, h, w)`` to ``(B, C, H, W)`` images; arguments as of the encoder."""
    finest, last = sizes.widths[0], len(sizes.widths) - 1
    return decoder(
        nn.Conv2d(latents, sizes.widths[-1], 3, padding=1),
        levels(
            sizes.widths[-1],
            sizes.widths[::-1],
            partial(ResidualBlock, groups=sizes.groups),
            blocks=sizes.blocks + 1,
            resample=Upsample,
            attention=[last - level for level in sizes.attention],
            groups=sizes.groups,
        ),
        _middle(sizes, attends=middle_attention),
        (
            group_norm(finest, sizes.groups),
            nn.Conv2d(finest, sizes.image_channels, 3, padding=1),
        ),
        nn.Conv2d(projected, latents, 1),
    )


def _middle(sizes: StackConfig, *, attends: bool) -> list[nn.Module]:
    width, groups = sizes.widths[-1], sizes.groups
    parts: list[nn.Module] = [ResidualBlock(width, width, groups=groups) for _ in range(2)]
    if attends:
        parts.insert(1, AttentionBlock(width, groups=groups))
    return parts
