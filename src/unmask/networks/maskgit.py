"""Both networks of MaskGIT, put together from their sizes: maskgit-pytorch's and the original's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from unmask.networks.network import Network
from unmask.networks.sizes import ClassCount, CodeCount, Dropout, Space, Width
from unmask.nn.block import Gelu, PostNormBlock, PreNormBlock
from unmask.nn.categorical import LinearHead, MlmHead
from unmask.nn.embed import IdEmbed, JointEmbed
from unmask.nn.encoder_decoder import Trunk
from unmask.nn.feedback import Feedback
from unmask.ranges import Between


@dataclass(frozen=True, kw_only=True)
class CodeNetwork(Network):
    """A plain trunk on codes, which may guide itself."""

    codes: CodeCount
    """V, codes of the tokenizer."""
    feedback: Feedback | None = None
    """Sizes of the self-guidance adapter; None for none."""

    @property
    def space(self) -> Space:
        """Tokens are one of V codes."""
        return "codes", self.codes


@dataclass(frozen=True, kw_only=True)
class MaskGITVitNetwork(CodeNetwork):
    """maskgit-pytorch's ViT: separate class table with a null class, linear head."""

    formerly: ClassVar[tuple[str, ...]] = ("PreNormNetwork",)

    classes: ClassCount = 0
    """N, classes of images; 0 for an unconditional model."""
    dropout: Dropout = 0.0
    """Dropout rate on embeddings, attention weights and the results of a block's branches."""

    def parts(self) -> tuple[IdEmbed, Trunk, LinearHead]:
        """Embed, trunk and head, with torch's own initial weights."""
        blocks = [
            PreNormBlock(self.width, self.heads, feed_forward=4 * self.width, dropout=self.dropout)
            for _ in range(self.depth)
        ]
        embed = IdEmbed(
            self.codes, self.width, length=self.length, classes=self.classes, dropout=self.dropout
        )  # (B, L) to (B, P + L, D), P 1 or 0
        head = LinearHead(self.codes, self.width)  # (..., D) to (..., V)
        return embed, Trunk(blocks), head


@dataclass(frozen=True, kw_only=True)
class MaskGITBertNetwork(CodeNetwork):
    """MaskGIT's BERT: classes are tokens of the same vocabulary; no null class.

    UnlockMGM's PyTorch port is the default; ``gelu="tanh"``, ``tie_embeddings`` and
    ``drop_attention_output`` make it the JAX original.
    """

    formerly: ClassVar[tuple[str, ...]] = ("PostNormNetwork",)
    has_null_class: ClassVar[bool] = False

    feed_forward: Width
    """Hidden width of a block's two linear layers."""
    classes: Annotated[int, Between(1, 10**6)] = 1000
    """N, classes of images, at least 1; ImageNet has 1000."""
    dropout: Dropout = 0.1
    """Dropout rate on embeddings and on the results of feed-forward layers."""
    attention_dropout: Dropout = 0.1
    """Dropout rate on attention weights."""
    gelu: Gelu = "erf"
    """Activation: exact as in UnlockMGM, or JAX's "tanh" approximation."""
    tie_embeddings: bool = False
    """Use the token table as the matrix of the output layer (JAX MaskGIT)."""
    drop_attention_output: bool = False
    """Apply dropout to the attention's result too, before the residual sum (JAX MaskGIT)."""

    def parts(self) -> tuple[JointEmbed, Trunk, MlmHead]:
        """Embed, trunk and head, with torch's own initial weights."""
        embed = JointEmbed(
            self.codes, self.width, length=self.length, classes=self.classes, dropout=self.dropout
        )  # (B, L) to (B, 1 + L, D)
        outputs = self.codes + self.classes + 1
        head = MlmHead(self.codes, self.width, outputs=outputs, gelu=self.gelu)  # (..., outputs)
        if self.tie_embeddings:
            head.out.weight = embed.tokens.weight  # (V + N + 1, D)
        return embed, Trunk(self._block() for _ in range(self.depth)), head

    def _block(self) -> PostNormBlock:
        return PostNormBlock(
            self.width,
            self.heads,
            feed_forward=self.feed_forward,
            gelu=self.gelu,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            attention_output_dropout=self.dropout if self.drop_attention_output else 0.0,
        )
