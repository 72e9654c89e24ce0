"""The base of all systems' networks: sizes that are checked, and how they become a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from unmask.networks.sizes import (
    Depth,
    Dropout,
    Grid,
    Heads,
    Ratio,
    Space,
    TokenCount,
    Width,
    check_heads,
    token_grid,
)
from unmask.nn.embed import Embed
from unmask.nn.encoder_decoder import Blocks, EncoderDecoder, HiddenTokens, vit_blocks
from unmask.nn.feedback import Feedback, FeedbackAdapter
from unmask.nn.model import AnyHead, AnyTrunk, MaskedModel
from unmask.ranges import Ranged


@dataclass(frozen=True, kw_only=True)
class Network(Ranged, ABC, path="network"):
    """Sizes of a network; a subclass makes its parts."""

    width: Width
    """D, features of a token (of the encoder, if there is a decoder); divisible by the heads."""
    depth: Depth
    """Transformer blocks (of the encoder, if there is a decoder)."""
    heads: Heads
    """Attention heads of a block (of the encoder, if there is a decoder)."""
    length: TokenCount
    """L, tokens of an image."""
    dropout: Dropout = 0.0
    """Dropout rate in training."""
    grid: Grid | None = None
    """Rows and columns of tokens; None means square."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.width, self.heads)
        token_grid(self.length, self.grid)

    @property
    @abstractmethod
    def space(self) -> Space:
        """Kind of a token: ("codes", V) or ("channels", C); tokenizers say it too."""

    @property
    def classes(self) -> int:
        """N, classes of images; 0 for an unconditional model."""
        return 0

    @property
    def has_null_class(self) -> bool:
        """Whether a label can be dropped, which guidance needs."""
        return self.classes > 0

    @property
    def drops(self) -> bool:
        """Whether the encoder sees known tokens only."""
        return False

    @property
    def feedback(self) -> Feedback | None:
        """Sizes of the self-guidance adapter; None for none."""
        return None

    @abstractmethod
    def parts(self) -> tuple[Embed, AnyTrunk, AnyHead]:
        """Embed, trunk and head, with torch's own initial weights.

        ``(B, L)`` tokens become ``(B, P + L, D)``, then ``(B, P + L, E)``; the head reads those.
        """

    def build(self) -> MaskedModel:
        """The network, without useful weights until initialised or loaded."""
        depth, classes, adapter = self.depth, self.classes, None
        if self.feedback is not None:
            adapter = FeedbackAdapter(self.feedback, self.width, depth=depth, classes=classes)
        return MaskedModel(
            *self.parts(),
            grid=token_grid(self.length, self.grid),
            classes=classes,
            feedback=adapter,
        )


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderNetwork(Network):
    """A network whose trunk has two halves: an encoder of some tokens, a decoder of all."""

    decoder_width: Width
    """E, features of a token in the decoder; divisible by the decoder's heads."""
    decoder_depth: Depth
    """Transformer blocks of the decoder."""
    decoder_heads: Heads
    """Attention heads of a block of the decoder."""
    mlp_ratio: Ratio = 4.0
    """Hidden width of a block's feed-forward layers over the block's width."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.decoder_width, self.decoder_heads, "decoder_")

    def feed_forward(self, width: int) -> int:
        """Hidden width of the feed-forward layers in blocks of this width."""
        return round(width * self.mlp_ratio)

    def _half(self, width: int, depth: int, heads: int) -> Blocks:
        hidden = self.feed_forward(width)
        return vit_blocks(width, depth, heads, feed_forward=hidden, dropout=self.dropout)

    def trunk(
        self, *, prefix: int, hidden: HiddenTokens, mask_token: nn.Parameter | None, tail: bool
    ) -> EncoderDecoder:
        """Both halves; arguments as of :class:`~unmask.nn.encoder_decoder.EncoderDecoder`."""
        encoder = self._half(self.width, self.depth, self.heads)
        decoder = self._half(self.decoder_width, self.decoder_depth, self.decoder_heads)
        return EncoderDecoder(
            encoder,
            decoder,
            widths=(self.width, self.decoder_width),
            length=self.length,
            prefix=prefix,
            hidden=hidden,
            mask_token=mask_token,
            tail=tail,
        )
