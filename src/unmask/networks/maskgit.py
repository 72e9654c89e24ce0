"""The pre-norm network of maskgit-pytorch, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from unmask.networks.sizes import (
    ClassCount,
    CodeCount,
    Depth,
    Dropout,
    Grid,
    Heads,
    TokenCount,
    Width,
    check_heads,
    token_grid,
)
from unmask.nn.block import Gelu, PostNormBlock, PreNormBlock
from unmask.nn.categorical import LinearHead, MlmHead
from unmask.nn.embed import IdEmbed, JointEmbed
from unmask.nn.encoder_decoder import Trunk
from unmask.nn.feedback import Feedback, make_adapter
from unmask.nn.model import MaskedModel
from unmask.ranges import Between, Ranged


@dataclass(frozen=True, kw_only=True)
class MaskGITVitNetwork(Ranged, path="network"):
    """maskgit-pytorch's transformer: separate class table with a null class, linear head."""

    formerly: ClassVar[tuple[str, ...]] = ("PreNormNetwork",)

    codes: CodeCount
    """V of the tokenizer."""
    width: Width
    """D, divisible by heads."""
    depth: Depth
    """Blocks."""
    heads: Heads
    """Attention heads a block."""
    length: TokenCount
    """L, tokens of an image."""
    classes: ClassCount = 0
    """N; 0 for an unconditional model."""
    dropout: Dropout = 0.0
    """Of embeddings, attention probabilities and both branches of a block."""
    grid: Grid | None = None
    """(h, w) tokens; None means square."""
    feedback: Feedback | None = None
    """A self-guidance adapter of these sizes; None for none."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.width, self.heads)
        token_grid(self.length, self.grid)

    @property
    def has_null_class(self) -> bool:
        """Whether a label can be dropped, which guidance needs."""
        return self.classes > 0

    def build(self) -> MaskedModel:
        """The network, with torch's own initial weights until initialised or loaded."""
        blocks = [
            PreNormBlock(self.width, self.heads, feed_forward=4 * self.width, dropout=self.dropout)
            for _ in range(self.depth)
        ]
        embed = IdEmbed(
            self.codes,
            self.width,
            length=self.length,
            classes=self.classes,
            dropout=self.dropout,
        )
        return MaskedModel(
            embed,
            Trunk(blocks),
            LinearHead(self.codes, self.width),
            length=self.length,
            grid=token_grid(self.length, self.grid),
            classes=self.classes,
            feedback=make_adapter(
                self.feedback, self.width, depth=self.depth, classes=self.classes
            ),
        )


@dataclass(frozen=True, kw_only=True)
class MaskGITBertNetwork(Ranged, path="network"):
    """MaskGIT's BERT: classes are tokens of the same vocabulary; no null class.

    UnlockMGM's PyTorch port is the default; ``gelu="tanh"``, ``tie_embeddings`` and
    ``drop_attention_output`` make it the JAX original.
    """

    formerly: ClassVar[tuple[str, ...]] = ("PostNormNetwork",)

    codes: CodeCount
    """V of the tokenizer."""
    width: Width
    """D, divisible by heads."""
    depth: Depth
    """Blocks."""
    heads: Heads
    """Attention heads a block."""
    feed_forward: Width
    """Hidden width of a block's two linear layers."""
    length: TokenCount
    """L, tokens of an image."""
    classes: Annotated[int, Between(1, 10**6)]
    """N."""
    dropout: Dropout = 0.1
    """Of embeddings and feed-forward results."""
    attention_dropout: Dropout = 0.1
    """Of attention probabilities."""
    gelu: Gelu = "erf"
    """Activation: exact as in UnlockMGM, or JAX's "tanh" approximation."""
    tie_embeddings: bool = False
    """Whether the output layer's matrix is the word table."""
    drop_attention_output: bool = False
    """Whether dropout also hits the attention's result before the residual sum."""
    grid: Grid | None = None
    """(h, w) tokens; None means square."""
    feedback: Feedback | None = None
    """A self-guidance adapter of these sizes; None for none."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_heads(self.width, self.heads)
        token_grid(self.length, self.grid)

    @property
    def has_null_class(self) -> bool:
        """Never: no row of the table means "no class"."""
        return False

    def build(self) -> MaskedModel:
        """The network, with torch's own initial weights until initialised or loaded."""
        embed = JointEmbed(
            self.codes,
            self.width,
            length=self.length,
            classes=self.classes,
            dropout=self.dropout,
        )
        outputs = self.codes + self.classes + 1
        head = MlmHead(self.codes, self.width, outputs=outputs, gelu=self.gelu)
        if self.tie_embeddings:
            head.out.weight = embed.tokens.weight
        return MaskedModel(
            embed,
            Trunk(self._block() for _ in range(self.depth)),
            head,
            length=self.length,
            grid=token_grid(self.length, self.grid),
            classes=self.classes,
            feedback=make_adapter(
                self.feedback, self.width, depth=self.depth, classes=self.classes
            ),
        )

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
