"""MAGE's network, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from unmask.errors import InputError
from unmask.networks.network import EncoderDecoderNetwork
from unmask.networks.sizes import CodeCount, Dropout, Space
from unmask.nn.categorical import FixedTableHead
from unmask.nn.embed import MageEmbed
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.ranges import Between


@dataclass(frozen=True, kw_only=True)
class MageNetwork(EncoderDecoderNetwork):
    """An encoder of what a training example leaves, a decoder of all (arXiv 2211.09117).

    Hidden tokens are padded with the encoder's feature of the class slot; the output layer reads
    the token table, without teaching it.
    """

    codes: CodeCount
    """V, codes of the tokenizer."""
    position_rows: Annotated[int | None, Between(2, 2**20 + 1)] = None
    """Rows of the encoder's position table; None means one more than tokens. Published: 257."""
    dropout: Dropout = 0.1
    """Dropout rate on embeddings, attention weights and every layer of a block's branches."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        if self.position_rows is not None and self.position_rows <= self.length:
            raise InputError(
                f"network.position_rows={self.position_rows} is too few for network.length="
                f"{self.length} tokens and the class slot; give at least {self.length + 1}"
            )

    def feed_forward(self, width: int) -> int:
        """Hidden width of the feed-forward layers in blocks of this width, cut as in timm."""
        return int(width * self.mlp_ratio)

    @property
    def space(self) -> Space:
        """Tokens are one of V codes."""
        return "codes", self.codes

    def parts(self) -> tuple[MageEmbed, EncoderDecoder, FixedTableHead]:
        """Embed, trunk and head, with torch's own initial weights."""
        positions = (self.position_rows or self.length + 1) - 1
        embed = MageEmbed(self.codes, self.width, length=positions, dropout=self.dropout)
        trunk = self.trunk(prefix=1, hidden="embedded", mask_token=None, tail=False)  # D to E
        outputs = embed.tokens.num_embeddings
        head = FixedTableHead(self.codes, self.decoder_width, inner=self.width, outputs=outputs)
        head.out.weight = embed.tokens.weight  # (V + 1001, D)
        return embed, trunk, head
