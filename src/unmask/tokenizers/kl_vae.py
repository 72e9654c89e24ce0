"""KL-16, the autoencoder of latent diffusion whose latents MAR and eMIGM generate."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.errors import InputError
from unmask.tokenizers.latent_tokenizer import LatentTokenizer, check_scale
from unmask.tokenizers.maskgit_vqgan import check_widths
from unmask.tokenizers.vqgan_blocks import GROUPS
from unmask.tokenizers.vqgan_stack import Stack, stacked_decoder, stacked_encoder


@dataclass(frozen=True, kw_only=True)
class KLVAE:
    """Shape of a :class:`KLVAETokenizer`; the defaults are KL-16."""

    image_channels: int = 3
    """1 for grey, 3 for colour."""
    stem: int = 128
    """Channels after the first convolution."""
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""
    blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    attention: tuple[int, ...] = (4,)
    """Levels of the encoder with attention after every block, 0 the finest; the decoder has
    attention in its middle only."""
    channels: int = 16
    """C, numbers a token."""
    groups: int = GROUPS
    """Of every normalisation."""
    scale: float = 0.2325
    """Of latents to tokens (MAR and eMIGM: 1 over the spread of KL-16's on ImageNet)."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        check_widths((self.stem, *self.widths), self.groups)
        if any(not 0 <= level < len(self.widths) for level in self.attention):
            raise InputError(f"attention={self.attention} names a level not in widths")
        if self.channels < 1:
            raise InputError(f"channels={self.channels} must be at least 1")
        check_scale(self.scale)

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0)


class KLVAETokenizer(LatentTokenizer):
    """A ``ContinuousTokenizer``: VQGAN's stacks around a Gaussian instead of a codebook.

    As in CompVis/latent-diffusion's ``AutoencoderKL`` (arXiv 2112.10752) and mar: models/vae.py.
    """

    family = "kl_vae"

    def __init__(self, config: KLVAE) -> None:
        super().__init__(config)
        self.encoder = stacked_encoder(
            _stack(config, 2 * config.channels, config.blocks, config.attention)
        )
        self.decoder = stacked_decoder(_stack(config, config.channels, config.blocks + 1, ()))


def _stack(config: KLVAE, channels: int, blocks: int, attention: tuple[int, ...]) -> Stack:
    """One side; ``channels`` at the end of the latents."""
    return Stack(
        image_channels=config.image_channels,
        stem=config.stem,
        widths=config.widths,
        blocks=blocks,
        attention=attention,
        middle_attention=True,
        latent_channels=channels,
        projected=channels,
        groups=config.groups,
    )
