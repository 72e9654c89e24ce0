"""VQGAN's encoder and decoder from a few sizes; KL-16 of latent diffusion has the same."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from unmask.tokenizers.vqgan_blocks import (
    AttentionBlock,
    Downsample,
    Level,
    ResidualBlock,
    Upsample,
    decoder,
    encoder,
    group_norm,
)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One side of an autoencoder."""

    image_channels: int
    """1 for grey, 3 for colour."""
    stem: int
    """Channels after an encoder's first convolution; a decoder has none of its own."""
    widths: tuple[int, ...]
    """Channels at each level, finest first."""
    blocks: int
    """Residual blocks a level."""
    attention: tuple[int, ...]
    """Levels with attention after every block, 0 the finest."""
    middle_attention: bool
    """Whether attention stands between the two middle blocks."""
    latent_channels: int
    """Channels of the 3x3 convolution at the latents' end."""
    projected: int
    """Channels beyond the 1x1 projection there."""
    groups: int
    """Of every normalisation."""


def stacked_encoder(stack: Stack) -> nn.Sequential:
    """``(B, C, H, W)`` images to ``(B, projected, h, w)``."""
    lowest = stack.widths[-1]
    return encoder(
        nn.Conv2d(stack.image_channels, stack.stem, 3, padding=1),
        _encoder_levels(stack),
        _middle(stack),
        (
            group_norm(lowest, stack.groups),
            nn.Conv2d(lowest, stack.latent_channels, 3, padding=1),
        ),
        nn.Conv2d(stack.latent_channels, stack.projected, 1),
    )


def stacked_decoder(stack: Stack) -> nn.Sequential:
    """``(B, projected, h, w)`` to ``(B, C, H, W)`` images."""
    highest = stack.widths[0]
    return decoder(
        nn.Conv2d(stack.latent_channels, stack.widths[-1], 3, padding=1),
        _decoder_levels(stack),
        _middle(stack),
        (
            group_norm(highest, stack.groups),
            nn.Conv2d(highest, stack.image_channels, 3, padding=1),
        ),
        nn.Conv2d(stack.projected, stack.latent_channels, 1),
    )


def _middle(stack: Stack) -> list[nn.Module]:
    width, groups = stack.widths[-1], stack.groups
    parts: list[nn.Module] = [ResidualBlock(width, width, groups=groups) for _ in range(2)]
    if stack.middle_attention:
        parts.insert(1, AttentionBlock(width, groups=groups))
    return parts


def _level(stack: Stack, level: int, width_in: int, resample: nn.Module | None) -> Level:
    width, groups = stack.widths[level], stack.groups
    first = ResidualBlock(width_in, width, groups=groups)
    rest = [ResidualBlock(width, width, groups=groups) for _ in range(stack.blocks - 1)]
    attends = stack.blocks if level in stack.attention else 0
    attention = [AttentionBlock(width, groups=groups) for _ in range(attends)]
    return Level([first, *rest], attention, resample)


def _encoder_levels(stack: Stack) -> list[Level]:
    levels, width_in = [], stack.stem
    for level, width in enumerate(stack.widths):
        down = Downsample(width) if level < len(stack.widths) - 1 else None
        levels.append(_level(stack, level, width_in, down))
        width_in = width
    return levels


def _decoder_levels(stack: Stack) -> list[Level]:
    """Lowest resolution first."""
    levels, width_in = [], stack.widths[-1]
    for level, width in reversed(list(enumerate(stack.widths))):
        up = Upsample(width) if level > 0 else None
        levels.append(_level(stack, level, width_in, up))
        width_in = width
    return levels
