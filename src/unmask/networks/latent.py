"""The network of MAR and eMIGM, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from unmask.errors import InputError
from unmask.networks.network import EncoderDecoderNetwork
from unmask.networks.sizes import Channels, ClassCount, Depth, Dropout, Space, Width
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.embed import LatentEmbed
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.ranges import Between


@dataclass(frozen=True, kw_only=True)
class LatentNetwork(EncoderDecoderNetwork):
    """Latents in, an encoder of the known tokens, a decoder of all, a head that diffuses."""

    channels: Channels
    """C, numbers per token (channels of a latent x latents per token)."""
    head_width: Width
    """Features in a block of the diffusion head."""
    head_depth: Depth
    """Blocks of the diffusion head."""
    classes: ClassCount = 0
    """N, classes of images; 0 for an unconditional model."""
    buffer: Annotated[int, Between(1, 2**16)] = 64
    """P, positions in front of the tokens that hold the class."""
    dropout: Dropout = 0.0
    """Dropout rate on attention weights, attention output, and twice in the MLP."""
    drops: bool = True
    """Drop hidden tokens before the encoder; else it sees the mask token in their place."""
    tied: bool = False
    """Use one vector as mask token and as null class (eMIGM)."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        if self.width != self.decoder_width and (self.tied or not self.drops):
            why = "a mask token tied to the null class" if self.tied else "drops=False"
            raise InputError(
                f"network.width={self.width} and network.decoder_width={self.decoder_width}: "
                f"{why} needs them equal"
            )

    @property
    def space(self) -> Space:
        """Tokens are vectors of C numbers."""
        return "channels", self.channels

    def parts(self) -> tuple[LatentEmbed, EncoderDecoder, DiffusionHead]:
        """Embed, trunk and head, without useful weights."""
        embed = LatentEmbed(
            self.channels, self.width, length=self.length, classes=self.classes, buffer=self.buffer
        )
        own = nn.Parameter(torch.zeros(1, 1, self.decoder_width))  # (1, 1, E)
        trunk = self.trunk(
            prefix=self.buffer,
            hidden="dropped" if self.drops else "replaced",
            mask_token=embed.null if self.tied else own,
            tail=True,
        )
        head = DiffusionHead(
            self.channels, self.decoder_width, width=self.head_width, depth=self.head_depth
        )
        return embed, trunk, head
