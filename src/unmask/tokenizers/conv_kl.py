"""A small convolutional autoencoder of continuous latents that trains in minutes."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.errors import InputError
from unmask.tokenizers.conv_stack import ConvStack, conv_decoder, conv_encoder
from unmask.tokenizers.image_tokenizer import channels_last
from unmask.tokenizers.latent_tokenizer import LatentTokenizer, check_scale


@dataclass(frozen=True, kw_only=True)
class ConvKL(ConvStack):
    """Shape of a :class:`ConvKLTokenizer`."""

    channels: int = 8
    """C, numbers a token."""
    scale: float = 1.0
    """Of latents to tokens; measured at the end of training, 1 over their spread."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        if self.channels < 1:
            raise InputError(f"channels={self.channels} must be at least 1")
        check_scale(self.scale)


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
