"""A small convolutional autoencoder of continuous latents that trains in minutes."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.nn.sizes import Channels
from unmask.tokenizers.conv_stack import ConvStack, conv_decoder, conv_encoder
from unmask.tokenizers.image_tokenizer import channels_last
from unmask.tokenizers.latent_tokenizer import Grouped, LatentTokenizer, Scale


@dataclass(frozen=True, kw_only=True)
class ConvKL(Grouped, ConvStack):
    """Shape of a :class:`ConvKLTokenizer`."""

    channels: Channels = 8
    """C, numbers a place of the encoder's map."""
    scale: Scale = 1.0
    """Of latents to tokens; measured at the end of training, 1 over their spread."""


class ConvKLTokenizer(LatentTokenizer):
    """The encoder and decoder of ``ConvVQTokenizer`` around a Gaussian.

    Latent diffusion's autoencoder (arXiv 2112.10752, sec. 3.1, "KL-reg.") at a size for small
    images.
    """

    family = "conv_kl"
    config: ConvKL

    def __init__(self, config: ConvKL) -> None:
        super().__init__(config, config.channels, scale=config.scale)
        self.encoder = conv_encoder(config, 2 * config.channels)
        self.decoder = conv_decoder(config, config.channels)
        channels_last(self)
