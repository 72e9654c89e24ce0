"""VQGAN (taming-transformers), and LlamaGen's and aMUSEd's tokenizers, which are its variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unmask.errors import InputError
from unmask.tokenizers.maskgit_vqgan import check_widths
from unmask.tokenizers.quantizer import VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan_blocks import GROUPS
from unmask.tokenizers.vqgan_stack import Stack, stacked_decoder, stacked_encoder

Pixels = Literal["signed", "unit"]


@dataclass(frozen=True, kw_only=True)
class VQGAN:
    """Shape of a :class:`VQGANTokenizer`; the defaults are VQGAN f16 with 16384 codes."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    stem: int = 128
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""
    decoder_widths: tuple[int, ...] = ()
    """The same of the decoder; empty means equal."""
    blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: tuple[int, ...] = (4,)
    """Levels with attention after every block, 0 the finest."""
    middle_attention: bool = True
    """Whether attention stands between the two middle blocks."""
    latent_channels: int = 256
    """Channels before the projection to codes."""
    codes: int = 16384
    """V, vectors in the codebook."""
    code_dim: int = 256
    """D, numbers a code."""
    l2_normalised: bool = False
    """Compare directions instead of vectors (LlamaGen)."""
    groups: int = GROUPS
    """Of every normalisation."""
    pixels: Pixels = "signed"
    """What the network sees of an image: "signed" is [-1, 1], "unit" is [0, 1]. aMUSEd was trained
    on "unit", and its own pipeline decodes so; maskgit-pytorch, its cached codes and its published
    scores use "signed"."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        check_widths((self.stem, *self.widths, *self.decoder_widths), self.groups)
        if len(self.upward) != len(self.widths):
            raise InputError(
                f"decoder_widths={self.decoder_widths} must name the {len(self.widths)} levels of "
                f"widths={self.widths}, or none"
            )
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise InputError(f"attention={self.attention} names a level not in widths")

    @property
    def upward(self) -> tuple[int, ...]:
        """Widths of the decoder's levels, finest first."""
        return self.decoder_widths or self.widths

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0) if self.pixels == "signed" else (0.0, 1.0)


class VQGANTokenizer(VQTokenizer):
    """Residual blocks with strided convolutions down and nearest doubling up, some attention.

    As in CompVis/taming-transformers (arXiv 2012.09841); LlamaGen (arXiv 2406.06525) l2-normalises
    the codes, aMUSEd (diffusers' ``VQModel``) leaves attention out.
    """

    family = "vqgan"

    def __init__(self, config: VQGAN) -> None:
        super().__init__(config)
        self.encoder = stacked_encoder(_stack(config, config.widths, config.blocks))
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        self.decoder = stacked_decoder(_stack(config, config.upward, config.blocks + 1))


def _stack(config: VQGAN, widths: tuple[int, ...], blocks: int) -> Stack:
    return Stack(
        image_channels=config.image_channels,
        stem=config.stem,
        widths=widths,
        blocks=blocks,
        attention=config.attention,
        middle_attention=config.middle_attention,
        latent_channels=config.latent_channels,
        projected=config.code_dim,
        groups=config.groups,
    )
