"""The network of MAR and eMIGM, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from unmask.errors import InputError
from unmask.networks.sizes import (
    Channels,
    ClassCount,
    Depth,
    Dropout,
    Grid,
    Heads,
    Ratio,
    TokenCount,
    Width,
    check_heads,
    token_grid,
)
from unmask.nn.block import PreNormBlock
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.embed import LatentEmbed
from unmask.nn.encoder_decoder import Blocks, EncoderDecoder
from unmask.nn.model import MaskedModel
from unmask.ranges import Between, Ranged

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class LatentNetwork(Ranged, path="network"):
    """Latents in, an encoder of the known tokens, a decoder of all, a head that diffuses."""

    channels: Channels
    """C, latents a token: of several latents a token, their product."""
    width: Width
    """D of the encoder, divisible by heads."""
    depth: Depth
    """Its blocks."""
    heads: Heads
    """Attention heads a block."""
    decoder_width: Width
    """D of the decoder, divisible by its heads."""
    decoder_depth: Depth
    """Its blocks."""
    decoder_heads: Heads
    """Attention heads a block of it."""
    length: TokenCount
    """L, tokens of an image."""
    head_width: Width
    """Of the diffusion head."""
    head_depth: Depth
    """Its blocks."""
    classes: ClassCount = 0
    """N; 0 for an unconditional model."""
    buffer: Annotated[int, Between(1, 2**16)] = 64
    """Positions in front of the tokens that hold the class."""
    mlp_ratio: Ratio = 4.0
    """Hidden width of a block's feed-forward part over its width."""
    dropout: Dropout = 0.0
    """Of attention probabilities and three times in a block's branches."""
    drops: bool = True
    """Whether the encoder sees known tokens only; else it sees the mask token for the others."""
    tied: bool = False
    """Whether the mask token is the vector of the null class too (eMIGM)."""
    grid: Grid | None = None
    """(h, w) tokens; None means square."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.width, self.heads)
        check_heads(self.decoder_width, self.decoder_heads, "decoder_")
        token_grid(self.length, self.grid)
        if self.width != self.decoder_width and (self.tied or not self.drops):
            why = "a mask token tied to the null class" if self.tied else "drops=False"
            raise InputError(
                f"network.width={self.width} and network.decoder_width={self.decoder_width}: "
                f"{why} needs them equal"
            )

    @property
    def has_null_class(self) -> bool:
        """Whether a label can be dropped, which guidance needs."""
        return self.classes > 0

    def build(self) -> MaskedModel:
        """The network, without useful weights until initialised or loaded."""
        embed = LatentEmbed(
            self.channels,
            self.width,
            length=self.length,
            classes=self.classes,
            buffer=self.buffer,
            norm_eps=NORM_EPS,
        )
        own = nn.Parameter(torch.zeros(1, 1, self.decoder_width))
        trunk = EncoderDecoder(
            self._blocks(self.width, self.depth, self.heads),
            self._blocks(self.decoder_width, self.decoder_depth, self.decoder_heads),
            widths=(self.width, self.decoder_width),
            length=self.length,
            prefix=self.buffer,
            hidden="dropped" if self.drops else "replaced",
            mask_token=embed.null if self.tied else own,
            tail=True,
        )
        return MaskedModel(
            embed,
            trunk,
            DiffusionHead(
                self.channels, self.decoder_width, width=self.head_width, depth=self.head_depth
            ),
            length=self.length,
            grid=token_grid(self.length, self.grid),
            classes=self.classes,
        )

    def _blocks(self, width: int, depth: int, heads: int) -> Blocks:
        return Blocks(
            PreNormBlock(
                width,
                heads,
                feed_forward=round(width * self.mlp_ratio),
                qkv_bias=True,
                norm_eps=NORM_EPS,
                dropout=self.dropout,
                inner_dropout=self.dropout,
            )
            for _ in range(depth)
        )
