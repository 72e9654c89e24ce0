"""Trunks: blocks that all see every position, or an encoder of some and a decoder of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.nn.block import VIT_EPS, PreNormBlock
from unmask.nn.positions import first_positions, put, take
from unmask.nn.weights import Vectors, normal, xavier
from unmask.types import Canvas

HiddenTokens = Literal["dropped", "embedded", "replaced"]


class Blocks(nn.ModuleList):
    """Blocks one after another; the last one works only where its result is read."""

    def forward(self, x: Tensor, read: Tensor | None = None) -> Tensor:
        """``(B, S, D)`` to the same, or to ``(B, N, D)`` at the ``(B, N)`` positions ``read``."""
        for block in self[:-1]:
            x = block(x)  # (B, S, D)
        return self[-1](x, read)  # (B, N or S, D)


def vit_blocks(
    width: int, depth: int, heads: int, *, feed_forward: int, dropout: float = 0.0
) -> Blocks:
    """Blocks as MAE has them: normalised before each branch, biases everywhere.

    Args:
        width: D.
        depth: how many.
        heads: H of each.
        feed_forward: width of each hidden layer.
        dropout: of attention probabilities, activations and both branches' results.
    """
    return Blocks(
        PreNormBlock(
            width,
            heads,
            feed_forward=feed_forward,
            qkv_bias=True,
            norm_eps=VIT_EPS,
            dropout=dropout,
            inner_dropout=dropout,
        )
        for _ in range(depth)
    )


class Trunk(nn.Module):
    """Every block sees every position."""

    drops: ClassVar[bool] = False
    matrices = staticmethod(normal)  # how they begin

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = Blocks(blocks)

    def forward(self, x: Tensor, canvas: Canvas, read: Tensor | None = None) -> Tensor:
        """See :class:`Blocks`; the canvas is not looked at."""
        return self.blocks(x, read)  # (B, N or S, D)


class EncoderDecoder(Vectors):
    """Encode some positions, give hidden ones their stand-in, decode all (MAE; MAGE, MAR, eMIGM).

    Args:
        encoder: its blocks, of width D.
        decoder: its blocks, of width E.
        widths: (D, E).
        length: L.
        prefix: P, positions in front of the image tokens; every half sees them.
        hidden: what the encoder sees of hidden tokens. "dropped": nothing (MAR, eMIGM).
            "embedded": what the embed made of them, unless the canvas says whom to keep (MAGE, in
            training). "replaced": the mask token, and its result goes on as it is (eMIGM without
            dropping).
        mask_token: what stands for a hidden token, in the decoder unless "replaced". None is the
            encoder's own feature of position 0 (MAGE's class slot).
        tail: whether the result gets a position table of its own (MAR's head has none besides).
    """

    matrices = staticmethod(xavier)  # how they begin

    def __init__(
        self,
        encoder: Blocks,
        decoder: Blocks,
        *,
        widths: tuple[int, int],
        length: int,
        prefix: int,
        hidden: HiddenTokens,
        mask_token: nn.Parameter | None,
        tail: bool,
    ) -> None:
        super().__init__()
        self.prefix, self.drops, self.replaces = prefix, hidden == "dropped", hidden == "replaced"
        width, inner = widths
        self.encoder = encoder
        self.encoder_norm = nn.LayerNorm(width, eps=VIT_EPS)
        self.join = nn.Linear(width, inner)
        self.mask_token = mask_token  # (1, 1, E), or (1, E) where it is the null class too
        self.positions = nn.Parameter(torch.zeros(1, prefix + length, inner))
        self.decoder = decoder
        self.decoder_norm = nn.LayerNorm(inner, eps=VIT_EPS)
        self.tail = nn.Parameter(torch.zeros(1, length, inner)) if tail else None

    def forward(self, x: Tensor, canvas: Canvas, read: Tensor | None = None) -> Tensor:
        """Encode and decode.

        Args:
            x: ``(B, P + L, D)``, embedded.
            canvas: ``(B, L)``; with ``drops``, every row hides equally many.
            read: ``(B, N)`` int64 positions of the sequence, none in the prefix; None means all.

        Returns:
            ``(B, P + L, E)``, or ``(B, N, E)`` at the positions read.
        """
        kept = self.kept(canvas)  # (B, K)
        seen = x if kept is None else take(x, kept)  # (B, K or P + L, D)
        encoded = self.encode(seen, canvas.masked)  # (B, K or P + L, D)
        return self.decode(encoded, kept, canvas.masked, read)  # (B, N or P + L, E)

    def encode(self, x: Tensor, masked: Tensor) -> Tensor:
        """``(B, K, D)``, the positions that the encoder sees, to the same, normalised."""
        if self.replaces:
            assert self.mask_token is not None, "an encoder's stand-in is a parameter"
            x = torch.where(self._hidden(masked), self.mask_token.view(1, 1, -1), x)
        return self.encoder_norm(self.encoder(x))  # (B, K, D)

    def decode(
        self, encoded: Tensor, kept: Tensor | None, masked: Tensor, read: Tensor | None = None
    ) -> Tensor:
        """From the encoder's ``(B, K, D)`` at the positions ``kept`` to the trunk's result."""
        y = self.join(encoded)  # (B, K, E)
        if not self.replaces:
            y = self._fill(y, kept, self._hidden(masked))  # (B, P + L, E)
        y = self.decoder_norm(self.decoder(y + self.positions, read))  # (B, N or P + L, E)
        if self.tail is None:
            return y
        tail = F.pad(self.tail, (0, 0, self.prefix, 0))  # (1, P + L, E)
        return y + (tail if read is None else take(tail.expand(len(y), -1, -1), read))

    def _fill(self, y: Tensor, kept: Tensor | None, hidden: Tensor) -> Tensor:
        """``(B, P + L, E)`` with the stand-in at hidden positions."""
        stand_in = y[:, :1] if self.mask_token is None else self.mask_token.view(1, 1, -1)
        stand_in = stand_in.to(y.dtype)  # (B or 1, 1, E)
        if kept is not None:
            y = put(stand_in.expand(len(y), hidden.shape[1], -1), kept, y)  # (B, P + L, E)
        return torch.where(hidden, stand_in, y)

    def _hidden(self, masked: Tensor) -> Tensor:
        """``(B, P + L, 1)`` bool."""
        return F.pad(masked, (self.prefix, 0)).unsqueeze(-1)

    def kept(self, canvas: Canvas) -> Tensor | None:
        """``(B, K)`` positions of the sequence that the encoder sees; None means all."""
        kept = canvas.kept
        if self.replaces or (kept is None and not self.drops):
            return None
        if kept is None:
            kept = first_positions(~canvas.masked, int((~canvas.masked[0]).sum()))  # (B, K - P)
        prefix = torch.arange(self.prefix, device=kept.device).expand(len(kept), -1)  # (B, P)
        return torch.cat([prefix, kept + self.prefix], dim=1)  # (B, K)
