"""KL-16, the autoencoder of latent diffusion whose latents MAR and eMIGM generate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unmask.nn.sizes import Channels
from unmask.tokenizers.latent_tokenizer import Grouped, LatentTokenizer, Scale
from unmask.tokenizers.vqgan_stack import StackConfig, stacked_decoder, stacked_encoder


@dataclass(frozen=True, kw_only=True)
class KLVAE(Grouped, StackConfig):
    """Shape of a :class:`KLVAETokenizer`; the defaults are KL-16.

    Levels with attention are those of the encoder; the decoder has it in its middle only.
    """

    channels: Channels = 16
    """C, numbers a place of the encoder's map."""
    scale: Scale = 0.2325
    """Of latents to tokens (MAR and eMIGM: 1 over the spread of KL-16's on ImageNet)."""


class KLVAETokenizer(LatentTokenizer):
    """A ``ContinuousTokenizer``: VQGAN's stacks around a Gaussian instead of a codebook.

    As in CompVis/latent-diffusion's ``AutoencoderKL`` (arXiv 2112.10752) and mar: models/vae.py.
    """

    family = "kl_vae"

    def __init__(self, config: KLVAE) -> None:
        super().__init__(config, config.channels, scale=config.scale)
        told, channels = 2 * config.channels, config.channels
        self.encoder = stacked_encoder(config, told, told)
        self.decoder = stacked_decoder(replace(config, attention=()), channels, channels)
