"""Patches of pixels as tokens: nothing to train and nothing to download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import ImageConfig
from unmask.tokenizers.latent_tokenizer import LatentTokenizer

NAME = re.compile(r"patches-(\d+)-(grey|rgb)")
CHANNELS = {"grey": 1, "rgb": 3}


@dataclass(frozen=True, kw_only=True)
class Patches(ImageConfig):
    """Size of a :class:`PatchTokenizer`'s patches."""

    patch: Annotated[int, Between(1, 256)]
    """Pixels along a patch's side."""

    @property
    def channels(self) -> int:
        """C, numbers per token."""
        return self.image_channels * self.patch**2

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return self.patch

    def build(self) -> PatchTokenizer:
        """The tokenizer of these sizes, which has no weights."""
        return PatchTokenizer(self)


class PatchTokenizer(LatentTokenizer):
    """A token is the pixels of its patch in [-1, 1]: channel slowest, then row, then column.

    The order is that of MAR's patches of latents (mar: models/mar.py, ``patchify``).
    """

    family = "patches"
    deterministic = True

    def __init__(self, config: Patches) -> None:
        super().__init__(config, config.channels)
        self.encoder = nn.PixelUnshuffle(config.patch)
        self.decoder = nn.PixelShuffle(config.patch)


def named_patches(name: str) -> Patches | None:
    """What ``patches-<pixels>-grey`` or ``patches-<pixels>-rgb`` means; None for other names."""
    found = NAME.fullmatch(name)
    return Patches(patch=int(found[1]), image_channels=CHANNELS[found[2]]) if found else None
