"""MAGE's encoder as a source of features: the whole image in, one vector out."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.networks import sizes as limits
from unmask.networks.mage import MageNetwork
from unmask.nn.block import VIT_EPS, PreNormBlock
from unmask.nn.embed import MageEmbed
from unmask.nn.encoder_decoder import vit_blocks
from unmask.nn.weights import fill, xavier
from unmask.ranges import Ranged
from unmask.types import Canvas

Pool = Literal["mean", "class"]


@dataclass(frozen=True, kw_only=True)
class EncoderSizes(Ranged, path="network"):
    """Sizes of an :class:`Encoder`; the defaults are the published ViT-B."""

    codes: limits.CodeCount = 1024
    """V, codes of the tokenizer."""
    width: limits.Width = 768
    """D, features of a token; divisible by the heads."""
    depth: limits.Depth = 12
    """Transformer blocks."""
    heads: limits.Heads = 12
    """Attention heads of a block."""
    feed_forward: limits.Width = 3072
    """Hidden width of a block's two linear layers."""
    positions: limits.TokenCount = 256
    """Rows of the position table, less the class slot's; at least the tokens of the grid."""
    grid: limits.Grid = (16, 16)
    """Rows and columns of tokens that the encoder was trained on."""
    dropout: limits.Dropout = 0.1
    """Dropout rate on the embedding."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        limits.check_heads(self.width, self.heads)
        if self.positions < self.grid[0] * self.grid[1]:
            raise InputError(
                f"positions={self.positions} are fewer than {self.grid[0]}x{self.grid[1]} tokens; "
                "give a smaller grid"
            )

    @classmethod
    def of(cls, network: MageNetwork) -> EncoderSizes:
        """The sizes of the first half of a generator."""
        return cls(
            codes=network.codes,
            width=network.width,
            depth=network.depth,
            heads=network.heads,
            feed_forward=network.feed_forward(network.width),
            positions=(network.position_rows or network.length + 1) - 1,
            grid=limits.token_grid(network.length, network.grid),
            dropout=network.dropout,
        )


class Encoder(nn.Module):
    """The first half of MAGE's network on all tokens, and a pooling in place of the second half.

    MAGE, ``models_vit_mage.py``: nothing is masked, and blocks have no dropout.

    Args:
        sizes: of the network.
        pool: "mean" averages the image positions and then normalises; "class" normalises the class
            slot's feature.
    """

    def __init__(self, sizes: EncoderSizes, *, pool: Pool = "mean") -> None:
        super().__init__()
        self.sizes, self.pool = sizes, pool
        width, rows = sizes.width, sizes.positions
        self.embed = MageEmbed(sizes.codes, width, length=rows, dropout=sizes.dropout)
        self.blocks = vit_blocks(width, sizes.depth, sizes.heads, feed_forward=sizes.feed_forward)
        self.norm = nn.LayerNorm(width, eps=VIT_EPS)

    def initialize(self, generator: torch.Generator) -> None:
        """Fill all weights as MAGE's pre-training begins (``models_mage.py``)."""
        tables = functools.partial(nn.init.normal_, std=0.02)
        fill(self, generator, matrices=xavier, tables=tables)

    def set_drop_path(self, rate: float) -> None:
        """Let both branches be left out at random: never in the first block, ``rate`` in the last.

        Rates grow linearly between, see :class:`unmask.nn.block.DropPath`.
        """
        rates = torch.linspace(0, rate, len(self.blocks)).tolist()
        for block, rate in zip(self.blocks, rates, strict=True):
            assert isinstance(block, PreNormBlock), "all blocks of the encoder are"
            block.drop_path.p = rate

    def forward(self, codes: Tensor) -> Tensor:
        """``(B, L)`` int64 codes to ``(B, D)`` features."""
        visible = torch.zeros_like(codes, dtype=torch.bool)
        x, prefix = self.embed(Canvas(codes, visible))  # (B, 1 + L, D)
        if self.pool == "mean":
            return self.norm(self.blocks(x)[:, prefix:].mean(1))  # (B, D)
        slot = torch.zeros_like(codes[:, :1])  # (B, 1)
        return self.norm(self.blocks(x, slot)[:, 0])  # (B, D)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions of another grid, bicubic (MAGE, ``util/pos_embed.py``).

    Args:
        table: ``(R, D)``; row 0 is the class slot's and kept, the grid's follow row-major, any
            beyond them are left out.
        old: (h, w) of the table.
        new: (h, w) wanted.

    Returns:
        ``(1 + h w, D)`` of the new grid.
    """
    at_grid = table[1 : 1 + old[0] * old[1]].unflatten(0, old).permute(2, 0, 1)  # (D, h, w)
    resized = F.interpolate(at_grid[None], new, mode="bicubic", align_corners=False)[0]  # (D, h, w)
    return torch.cat([table[:1], resized.flatten(1).T])  # (1 + h w, D)


def fit_grid(encoder: Encoder, grid: tuple[int, int], *, interpolate: bool) -> None:
    """Make an encoder take images of another token grid.

    Args:
        encoder: changed in place.
        grid: (h, w) of the images to come.
        interpolate: whether its positions may be resized.

    Raises:
        InputError: the grid differs and ``interpolate`` is not set.
    """
    old = encoder.sizes.grid
    if grid == old:
        return
    if not interpolate:
        raise InputError(
            f"the images have {grid[0]}x{grid[1]} tokens, the encoder was trained on "
            f"{old[0]}x{old[1]}; choose the image size that gives those, or allow its positions to "
            "be resized with --interpolate"
        )
    table = resize_positions(encoder.embed.positions.weight.detach(), old, grid)
    encoder.embed.positions = nn.Embedding.from_pretrained(table, freeze=False)
    encoder.sizes = replace(encoder.sizes, grid=grid, positions=len(table) - 1)


PROBE_DEVIATION, FINETUNE_DEVIATION = 0.01, 2e-5  # of the published heads' first weights


class TokenClassifier(nn.Module):
    """Codes to class scores.

    Args:
        encoder: codes to features.
        head: features to scores; without one there are none yet.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, codes: Tensor) -> Tensor:
        """``(B, L)`` int64 codes to ``(B, K)`` scores."""
        assert self.head is not None, "an encoder without a head names no classes"
        features = self.encoder(codes)  # (B, D)
        return self.head(features)  # (B, K)

    @property
    def classes(self) -> int:
        """K; 0 without a head."""
        return 0 if self.head is None else last_layer(self.head).out_features


def build_head(width: int, classes: int, *, normed: bool) -> nn.Module:
    """A linear head, or the probe's, which first normalises features over the batch.

    MAGE, ``models_vit_mage.py`` and ``main_linprobe.py``. The statistics are of each process's own
    micro-batch, as published.
    """
    linear = nn.Linear(width, classes)
    norm = nn.BatchNorm1d(width, eps=1e-6, affine=False)
    return nn.Sequential(norm, linear) if normed else linear


def last_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that ends every head."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear), "every head ends in a linear layer"
    return last


def initialize_head(head: nn.Module, generator: torch.Generator) -> None:
    """Weights normal with the published deviation and cut at +-2 (an absolute bound), biases 0."""
    deviation = PROBE_DEVIATION if isinstance(head, nn.Sequential) else FINETUNE_DEVIATION
    nn.init.trunc_normal_(last_layer(head).weight, std=deviation, generator=generator)
    nn.init.zeros_(last_layer(head).bias)
