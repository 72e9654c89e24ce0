"""The tokenizer of MaskGIT and of MAGE: a VQGAN without attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from unmask.errors import InputError
from unmask.tokenizers.quantizer import VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan_blocks import (
    GROUPS,
    BranchShortcutBlock,
    Level,
    Upsample,
    decoder,
    encoder,
    group_norm,
)


@dataclass(frozen=True, kw_only=True)
class MaskGITVQGAN:
    """Shape of a :class:`MaskGITVQGANTokenizer`; the defaults are the published one."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    stem: int = 128
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Channels at each level, finest first, multiples of 32; the stride is 2**(levels-1)."""
    blocks: int = 2
    """Residual blocks a level."""
    middle: int = 2
    """Residual blocks at the lowest resolution besides."""
    codes: int = 1024
    """V, vectors in the codebook."""
    code_dim: int = 256
    """D, numbers a code."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        check_widths((self.stem, *self.widths), GROUPS)

    @property
    def l2_normalised(self) -> bool:
        """Codes are compared as they are."""
        return False

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    @property
    def native_range(self) -> tuple[float, float]:
        """The network sees [0, 1] unchanged."""
        return (0.0, 1.0)


def check_widths(widths: tuple[int, ...], groups: int) -> None:
    """Refuse widths that the normalisations cannot divide.

    Raises:
        InputError: naming them.
    """
    if len(widths) < 2 or any(width < 1 or width % groups for width in widths):
        raise InputError(f"widths {widths} must be multiples of {groups}, at least one a level")


class MaskGITVQGANTokenizer(VQTokenizer):
    """Residual blocks with average pooling down and nearest doubling up; images in [0, 1].

    As in google-research/maskgit (nets/vqgan_tokenizer.py) and its PyTorch ports; MAGE's tokenizer
    (mage: config/vqgan.yaml) is the same network trained with stronger augmentation.
    """

    family = "maskgit_vqgan"

    def __init__(self, config: MaskGITVQGAN) -> None:
        super().__init__(config)
        widest, finest = config.widths[-1], config.widths[0]
        self.encoder = encoder(
            nn.Conv2d(config.image_channels, config.stem, 3, padding=1, bias=False),
            _levels(config.stem, config.widths, config.blocks, down=True),
            [BranchShortcutBlock(widest, widest) for _ in range(config.middle)],
            (group_norm(widest), nn.Conv2d(widest, config.code_dim, 1)),
        )
        self.quantizer = VectorQuantizer(config.codes, config.code_dim)
        self.decoder = decoder(
            nn.Conv2d(config.code_dim, widest, 3, padding=1),
            _levels(widest, config.widths[::-1], config.blocks, down=False),
            [BranchShortcutBlock(widest, widest) for _ in range(config.middle)],
            (group_norm(finest), nn.Conv2d(finest, config.image_channels, 3, padding=1)),
        )


def _levels(width_in: int, widths: tuple[int, ...], blocks: int, *, down: bool) -> list[Level]:
    levels = []
    for index, width in enumerate(widths):
        first = BranchShortcutBlock(width_in, width)
        rest = [BranchShortcutBlock(width, width) for _ in range(blocks - 1)]
        last = index == len(widths) - 1
        resample = None if last else nn.AvgPool2d(2) if down else Upsample(width)
        levels.append(Level([first, *rest], resample=resample))
        width_in = width
    return levels
