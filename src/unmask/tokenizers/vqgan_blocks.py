"""The convolutional parts of VQGAN and its published descendants, and its encoder and decoder.

Encoders and decoders of all of them have parts of the same names, which differ in their blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.networks.sizes import Channels
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import LevelConfig, Levels

GROUPS = 32  # of a normalisation in every published network


def check_widths(widths: tuple[int, ...], groups: int = GROUPS) -> None:
    """Refuse widths that the normalisations cannot divide.

    Raises:
        InputError: naming them.
    """
    if len(widths) < 2 or any(width < 1 or width % groups for width in widths):
        raise InputError(f"widths {widths} must be multiples of {groups}, at least one a level")


class GroupNorm(nn.GroupNorm):
    """torch's group norm, which also takes groups of one number in a batch of one image.

    torch refuses them there (a single token of as many channels as groups) and makes them 0 in
    larger batches.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(width: int, groups: int = GROUPS) -> GroupNorm:
    """The normalisation before every convolution of a block."""
    return GroupNorm(groups, width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input.

    Where the width changes, a 1x1 convolution of the input takes the input's place (VQGAN's
    ``nin_shortcut``).

    Args:
        width_in: channels before.
        width: channels after.
        groups: of the normalisations.
        bias: whether the convolutions have one.
    """

    def __init__(
        self, width_in: int, width: int, *, groups: int = GROUPS, bias: bool = True
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(width_in, groups)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=bias)
        self.norm2 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.shortcut = nn.Conv2d(width_in, width, 1, bias=bias) if width_in != width else None

    def branch(self, x: Tensor) -> Tensor:
        """What is added, ``(B, D, H, W)`` to ``(B, D', H, W)``."""
        h = self.conv1(F.silu(self.norm1(x)))  # (B, D', H, W)
        return self.conv2(F.silu(self.norm2(h)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to ``(B, D', H, W)``."""
        return self.branch(x) + (x if self.shortcut is None else self.shortcut(x))


class BranchShortcutBlock(ResidualBlock):
    """The residual block of MaskGIT's tokenizer: no biases, and a quirk.

    Where the width changes, the 1x1 convolution applies to the branch, not to the input, which is
    then not added at all: ``h + W h`` (google-research/maskgit, nets/vqgan_tokenizer.py).
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width, bias=False)
        if self.shortcut is not None:
            self.shortcut = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to ``(B, D', H, W)``."""
        h = self.branch(x)
        return h + (x if self.shortcut is None else self.shortcut(h))


class AttentionBlock(nn.Module):
    """One head of attention between all places of a map, added to it."""

    def __init__(self, width: int, *, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = group_norm(width, groups)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to the same shape."""
        normed = self.norm(x)
        q, k, v = (
            part(normed).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, H W, D)
            for part in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        placed = mixed.squeeze(1).transpose(1, 2).reshape(x.shape)  # (B, D, H, W)
        return x + self.proj_out(placed)


class Downsample(nn.Conv2d):
    """Half the size: a 3x3 convolution of stride 2, padded right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to ``(B, D, H / 2, W / 2)``."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))  # (B, D, H / 2, W / 2)


class Upsample(nn.Conv2d):
    """Twice the size: every place doubled, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to ``(B, D, 2 H, 2 W)``."""
        return super().forward(
            F.interpolate(x, scale_factor=2.0, mode="nearest")
        )  # (B, D, 2 H, 2 W)


class Level(nn.Module):
    """The blocks at one resolution and the way to the next.

    Args:
        blocks: run in order.
        attention: one after each block, or none at all.
        resample: to the next level's size; None at the last.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attention: Sequence[nn.Module],
        resample: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to the next level's width and size."""
        for index, block in enumerate(self.blocks):
            x = block(x)  # (B, D', H, W)
            if self.attention:
                x = self.attention[index](x)
        return x if self.resample is None else self.resample(x)


def levels(
    widths: Sequence[int],
    block: Callable[[int, int], nn.Module],
    resample: Callable[[int], nn.Module],
    *,
    blocks: int,
    attention: Collection[int] = (),
    attend: Callable[[int], nn.Module] = AttentionBlock,
) -> nn.Sequential:
    """The levels of one side, in the order in which they run.

    Args:
        widths: channels before the first level, then of each.
        block: makes a block from the channels before and after it.
        resample: makes the way from a level of so many channels to the next.
        blocks: a level.
        attention: places of the levels that have attention after every block.
        attend: makes attention from the channels of its level.
    """
    made = []
    for place, (before, width) in enumerate(pairwise(widths)):
        parts = [block(before if index == 0 else width, width) for index in range(blocks)]
        beside = [attend(width) for _ in parts] if place in attention else []
        made.append(Level(parts, beside, resample(width) if place < len(widths) - 2 else None))
    return nn.Sequential(*made)


def named(**parts: nn.Module) -> nn.Sequential:
    """The parts of an encoder or decoder, which run in this order."""
    return nn.Sequential(OrderedDict(parts))


@dataclass(frozen=True, kw_only=True)
class StackConfig(LevelConfig):
    """Sizes of the encoder and the decoder."""

    stem: Channels = 128
    """Channels after the first convolution."""
    blocks: Annotated[int, Between(0, 100)] = 2
    """Residual blocks at each level of the encoder; the decoder has one more."""
    attention: Levels = (4,)
    """Levels with attention after every block, 0 the finest."""
    groups: Channels = GROUPS
    """Groups of every normalisation."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        check_widths((self.stem, *self.widths), self.groups)
        self.check_attention(self.attention)


def stacked_encoder(
    sizes: StackConfig, latents: int, projected: int, *, middle_attention: bool = True
) -> nn.Sequential:
    """``(B, C, H, W)`` images to ``(B, projected, h, w)``.

    Args:
        sizes: of the encoder.
        latents: channels of the 3x3 convolution at the end.
        projected: channels beyond the 1x1 projection there.
        middle_attention: whether attention stands between the two middle blocks.
    """
    lowest = sizes.widths[-1]
    return named(
        conv_in=nn.Conv2d(sizes.image_channels, sizes.stem, 3, padding=1),
        levels=_ladder(sizes)(
            (sizes.stem, *sizes.widths),
            resample=Downsample,
            blocks=sizes.blocks,
            attention=sizes.attention,
        ),
        middle=_middle(sizes, attends=middle_attention),
        norm_out=group_norm(lowest, sizes.groups),
        act=nn.SiLU(),
        conv_out=nn.Conv2d(lowest, latents, 3, padding=1),
        project=nn.Conv2d(latents, projected, 1),
    )


def stacked_decoder(
    sizes: StackConfig, latents: int, projected: int, *, middle_attention: bool = True
) -> nn.Sequential:
    """``(B, projected, h, w)`` to ``(B, C, H, W)`` images; arguments are the encoder's."""
    last, lowest, finest = len(sizes.widths) - 1, sizes.widths[-1], sizes.widths[0]
    return named(
        project=nn.Conv2d(projected, latents, 1),
        conv_in=nn.Conv2d(latents, lowest, 3, padding=1),
        middle=_middle(sizes, attends=middle_attention),
        levels=_ladder(sizes)(
            (lowest, *sizes.widths[::-1]),
            resample=Upsample,
            blocks=sizes.blocks + 1,
            attention=[last - level for level in sizes.attention],
        ),
        norm_out=group_norm(finest, sizes.groups),
        act=nn.SiLU(),
        conv_out=nn.Conv2d(finest, sizes.image_channels, 3, padding=1),
    )


def _ladder(sizes: StackConfig) -> Callable[..., nn.Sequential]:
    block, attend = (partial(kind, groups=sizes.groups) for kind in (ResidualBlock, AttentionBlock))
    return partial(levels, block=block, attend=attend)


def _middle(sizes: StackConfig, *, attends: bool) -> nn.Sequential:
    width, groups = sizes.widths[-1], sizes.groups
    first, second = (ResidualBlock(width, width, groups=groups) for _ in range(2))
    between = [AttentionBlock(width, groups=groups)] if attends else []
    return nn.Sequential(first, *between, second)
