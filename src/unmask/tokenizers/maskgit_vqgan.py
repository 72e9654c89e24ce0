"""The tokenizer of MaskGIT and of MAGE: a VQGAN without attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from torch import nn

from unmask.networks.sizes import Channels
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import LevelConfig
from unmask.tokenizers.quantizer import Codebook, VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan_blocks import (
    BranchShortcutBlock,
    Upsample,
    check_widths,
    group_norm,
    levels,
    named,
)


@dataclass(frozen=True, kw_only=True)
class MaskGITVQGAN(LevelConfig):
    """Shape of a :class:`MaskGITVQGANTokenizer`; the defaults are the published one."""

    stem: Channels = 128
    """Channels after the first convolution."""
    blocks: Annotated[int, Between(0, 100)] = 2
    """Residual blocks a level."""
    middle: Annotated[int, Between(0, 100)] = 2
    """Further residual blocks at the lowest resolution."""
    codes: Codebook = 1024
    """V, vectors in the codebook."""
    code_dim: Channels = 256
    """D, numbers a code."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        check_widths((self.stem, *self.widths))

    @property
    def native_range(self) -> tuple[float, float]:
        """The network sees [0, 1] unchanged."""
        return (0.0, 1.0)

    def build(self) -> MaskGITVQGANTokenizer:
        """The tokenizer of these sizes, with random weights."""
        return MaskGITVQGANTokenizer(self)


class MaskGITVQGANTokenizer(VQTokenizer):
    """Residual blocks with average pooling down and nearest doubling up; images in [0, 1].

    As in google-research/maskgit (nets/vqgan_tokenizer.py) and its PyTorch ports; MAGE's tokenizer
    (mage: config/vqgan.yaml) is the same network trained with stronger augmentation.
    """

    family = "maskgit_vqgan"

    def __init__(self, config: MaskGITVQGAN) -> None:
        super().__init__(config, config.codes)
        widths, widest, finest = config.widths, config.widths[-1], config.widths[0]
        parts = partial(levels, block=BranchShortcutBlock, blocks=config.blocks)
        self.encoder = named(
            conv_in=nn.Conv2d(config.image_channels, config.stem, 3, padding=1, bias=False),
            levels=parts((config.stem, *widths), resample=lambda width: nn.AvgPool2d(2)),
            middle=_middle(config),
            norm_out=group_norm(widest),
            act=nn.SiLU(),
            conv_out=nn.Conv2d(widest, config.code_dim, 1),
        )
        self.quantizer = VectorQuantizer(config.codes, config.code_dim)
        self.decoder = named(
            conv_in=nn.Conv2d(config.code_dim, widest, 3, padding=1),
            middle=_middle(config),
            levels=parts((widest, *widths[::-1]), resample=Upsample),
            norm_out=group_norm(finest),
            act=nn.SiLU(),
            conv_out=nn.Conv2d(finest, config.image_channels, 3, padding=1),
        )


def _middle(config: MaskGITVQGAN) -> nn.Sequential:
    widest = config.widths[-1]
    return nn.Sequential(*(BranchShortcutBlock(widest, widest) for _ in range(config.middle)))
