"""The network of MAR and eMIGM, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unmask.errors import InputError
from unmask.model import MaskedModel
from unmask.nn.block import PreNormBlock
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.nn.latent_embed import LatentEmbed
from unmask.nn.sizes import check_sizes, token_grid
from unmask.nn.trunk import Blocks

NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class LatentNetwork:
    """Latents in, an encoder of the known tokens, a decoder of all, a head that diffuses."""

    channels: int
    """C, latents a token: of several latents a token, their product."""
    width: int
    """D of the encoder, divisible by heads."""
    depth: int
    """Its blocks."""
    heads: int
    """Attention heads a block."""
    decoder_width: int
    """D of the decoder, divisible by its heads."""
    decoder_depth: int
    """Its blocks."""
    decoder_heads: int
    """Attention heads a block of it."""
    length: int
    """L, tokens of an image."""
    head_width: int
    """Of the diffusion head."""
    head_depth: int
    """Its blocks."""
    classes: int = 0
    """N; 0 for an unconditional model."""
    buffer: int = 64
    """Positions in front of the tokens that hold the class."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's feed-forward part over its width."""
    dropout: float = 0.0
    """Of attention probabilities and three times in a block's branches, in [0, 1)."""
    drops: bool = True
    """Whether the encoder sees known tokens only; else it sees the mask token for the others."""
    tied: bool = False
    """Whether the mask token is the vector of the null class too (eMIGM)."""
    grid: tuple[int, int] | None = None
    """(h, w) tokens; None means square."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        check_sizes(width=self.width, depth=self.depth, heads=self.heads)
        check_sizes(width=self.decoder_width, depth=self.decoder_depth, heads=self.decoder_heads)
        for name in ("channels", "head_width", "head_depth", "buffer"):
            if getattr(self, name) < 1:
                raise InputError(f"network.{name}={getattr(self, name)} must be at least 1")
        token_grid(self.length, self.grid)
        if self.classes < 0:
            raise InputError(f"network.classes={self.classes} must be 0 (unconditional) or more")
        if not 0 <= self.dropout < 1:
            raise InputError(f"network.dropout={self.dropout} must lie in [0, 1)")
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
