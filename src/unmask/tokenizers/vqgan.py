"""VQGAN and what descends from it: MaskGIT's, LlamaGen's, aMUSEd's tokenizers, and KL-16."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from torch import nn

from unmask.errors import InputError
from unmask.networks.sizes import Channels
from unmask.ranges import Between, Length
from unmask.tokenizers.image_tokenizer import MOST_LEVELS, LevelConfig
from unmask.tokenizers.latent_tokenizer import Grouped, LatentTokenizer, Scale
from unmask.tokenizers.vq_tokenizer import Codebook, VectorQuantizer, VQTokenizer
from unmask.tokenizers.vqgan_blocks import (
    BranchShortcutBlock,
    StackConfig,
    Upsample,
    check_widths,
    group_norm,
    levels,
    named,
    stacked_decoder,
    stacked_encoder,
)

Pixels = Literal["signed", "unit"]


@dataclass(frozen=True, kw_only=True)
class VQGAN(StackConfig):
    """Sizes of a :class:`VQGANTokenizer`; the defaults are VQGAN f16 with 16384 codes."""

    decoder_widths: Annotated[tuple[int, ...], Between(1, 2**14), Length(0, MOST_LEVELS)] = ()
    """Channels at each level of the decoder, finest first; empty means those of the encoder."""
    middle_attention: bool = True
    """Whether attention stands between the two middle blocks."""
    latent_channels: Channels = 256
    """Channels before the projection to codes."""
    codes: Codebook = 16384
    """V, vectors in the codebook."""
    code_dim: Channels = 256
    """D, numbers per code vector."""
    l2_normalised: bool = False
    """Compare directions of latents and codes (cosine, LlamaGen) instead of the vectors."""
    pixels: Pixels = "signed"
    """Range in which the network sees an image: "signed" is [-1, 1], "unit" is [0, 1]. aMUSEd was
    trained on "unit", and its own pipeline decodes so; maskgit-pytorch, its cached codes and its
    published scores use "signed"."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        check_widths(self.upward, self.groups)
        if len(self.upward) != len(self.widths):
            raise InputError(
                f"decoder_widths={self.decoder_widths} must name the {len(self.widths)} levels of "
                f"widths={self.widths}, or none"
            )

    @property
    def upward(self) -> tuple[int, ...]:
        """Widths of the decoder's levels, finest first."""
        return self.decoder_widths or self.widths

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0) if self.pixels == "signed" else (0.0, 1.0)

    def build(self) -> VQGANTokenizer:
        """The tokenizer of these sizes, with random weights."""
        return VQGANTokenizer(self)


class VQGANTokenizer(VQTokenizer):
    """Residual blocks with strided convolutions down and nearest doubling up, some attention.

    As in CompVis/taming-transformers (arXiv 2012.09841); LlamaGen (arXiv 2406.06525) l2-normalises
    the codes, aMUSEd (diffusers' ``VQModel``) leaves attention out.
    """

    family = "vqgan"

    def __init__(self, config: VQGAN) -> None:
        super().__init__(config, config.codes)
        channels, attends = (config.latent_channels, config.code_dim), config.middle_attention
        self.encoder = stacked_encoder(config, *channels, middle_attention=attends)
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        upward = replace(config, widths=config.upward, decoder_widths=())
        self.decoder = stacked_decoder(upward, *channels, middle_attention=attends)


@dataclass(frozen=True, kw_only=True)
class KLVAE(Grouped, StackConfig):
    """Sizes of a :class:`KLVAETokenizer`; the defaults are KL-16.

    Levels with attention are those of the encoder; the decoder has it in its middle only.
    """

    channels: Channels = 16
    """C, numbers at each place of the encoder's map."""
    scale: Scale = 0.2325
    """Factor from latents to tokens (MAR, eMIGM: 1 over the spread of KL-16's on ImageNet)."""

    def build(self) -> KLVAETokenizer:
        """The tokenizer of these sizes, with random weights."""
        return KLVAETokenizer(self)


class KLVAETokenizer(LatentTokenizer):
    """VQGAN's stacks around a Gaussian instead of a codebook.

    As in CompVis/latent-diffusion's ``AutoencoderKL`` (arXiv 2112.10752) and mar: models/vae.py.
    """

    family = "kl_vae"

    def __init__(self, config: KLVAE) -> None:
        super().__init__(config, config.channels, scale=config.scale)
        channels, moments = config.channels, 2 * config.channels
        self.encoder = stacked_encoder(config, moments, moments)
        self.decoder = stacked_decoder(replace(config, attention=()), channels, channels)


@dataclass(frozen=True, kw_only=True)
class MaskGITVQGAN(LevelConfig):
    """Sizes of a :class:`MaskGITVQGANTokenizer`; the defaults are the published one's."""

    stem: Channels = 128
    """Channels after the first convolution."""
    blocks: Annotated[int, Between(0, 100)] = 2
    """Residual blocks at each level, in the encoder and again in the decoder."""
    middle: Annotated[int, Between(0, 100)] = 2
    """Further residual blocks at the lowest resolution."""
    codes: Codebook = 1024
    """V, vectors in the codebook."""
    code_dim: Channels = 256
    """D, numbers per code vector."""

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
