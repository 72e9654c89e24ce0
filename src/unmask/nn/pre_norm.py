"""The pre-norm network of maskgit-pytorch, put together from its sizes."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.model import MaskedModel
from unmask.nn.block import PreNormBlock
from unmask.nn.categorical import LinearHead
from unmask.nn.embed import IdEmbed
from unmask.nn.feedback import Feedback, make_adapter
from unmask.nn.sizes import (
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
from unmask.nn.trunk import Trunk
from unmask.ranges import Ranged


@dataclass(frozen=True, kw_only=True)
class PreNormNetwork(Ranged, path="network"):
    """maskgit-pytorch's transformer: separate class table with a null class, linear head."""

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
