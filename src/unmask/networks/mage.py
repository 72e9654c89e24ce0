"""MAGE's network, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from unmask.errors import InputError
from unmask.networks.sizes import (
    CodeCount,
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
from unmask.nn.categorical import FixedTableHead
from unmask.nn.embed import NORM_EPS, MageEmbed
from unmask.nn.encoder_decoder import Blocks, EncoderDecoder
from unmask.nn.model import MaskedModel
from unmask.ranges import Between, Ranged


@dataclass(frozen=True, kw_only=True)
class MageNetwork(Ranged, path="network"):
    """An encoder of what a training example leaves, a decoder of all (arXiv 2211.09117).

    Hidden tokens are padded with the encoder's feature of the class slot; the output layer reads
    the token table, without teaching it.
    """

    codes: CodeCount
    """V of the tokenizer."""
    width: Width
    """D of the encoder, divisible by heads."""
    depth: Depth
    """Blocks of the encoder."""
    heads: Heads
    """Attention heads of its blocks."""
    decoder_width: Width
    """E, divisible by decoder_heads."""
    decoder_depth: Depth
    """Blocks of the decoder."""
    decoder_heads: Heads
    """Attention heads of its blocks."""
    length: TokenCount
    """L, tokens of an image."""
    mlp_ratio: Ratio = 4.0
    """Hidden width of feed-forward layers over their width."""
    position_rows: Annotated[int | None, Between(2, 2**20 + 1)] = None
    """Of the encoder's position table, at least L + 1 (its default); 257 as published."""
    dropout: Dropout = 0.1
    """Of embeddings, attention probabilities and every branch's layers."""
    grid: Grid | None = None
    """(h, w) tokens; None means square."""

    classes: ClassVar[int] = 0
    has_null_class: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.width, self.heads)
        check_heads(self.decoder_width, self.decoder_heads, "decoder_")
        token_grid(self.length, self.grid)
        if self.position_rows is not None and self.position_rows <= self.length:
            raise InputError(
                f"network.position_rows={self.position_rows} is too few for network.length="
                f"{self.length} tokens and the class slot; give at least {self.length + 1}"
            )

    def build(self) -> MaskedModel:
        """The network, with torch's own initial weights until initialised or loaded."""
        positions = (self.position_rows or self.length + 1) - 1
        embed = MageEmbed(self.codes, self.width, length=positions, dropout=self.dropout)
        trunk = EncoderDecoder(
            self._blocks(self.width, self.depth, self.heads),
            self._blocks(self.decoder_width, self.decoder_depth, self.decoder_heads),
            widths=(self.width, self.decoder_width),
            length=self.length,
            prefix=1,
            hidden="embedded",
            mask_token=None,
            tail=False,
        )
        outputs = embed.tokens.num_embeddings
        head = FixedTableHead(self.codes, self.decoder_width, inner=self.width, outputs=outputs)
        head.out.weight = embed.tokens.weight
        grid = token_grid(self.length, self.grid)
        return MaskedModel(embed, trunk, head, length=self.length, grid=grid, classes=0)

    def _blocks(self, width: int, depth: int, heads: int) -> Blocks:
        return Blocks(
            PreNormBlock(
                width,
                heads,
                feed_forward=int(width * self.mlp_ratio),
                qkv_bias=True,
                norm_eps=NORM_EPS,
                dropout=self.dropout,
                inner_dropout=self.dropout,
            )
            for _ in range(depth)
        )
