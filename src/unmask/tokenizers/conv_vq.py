"""A small convolutional VQ tokenizer that trains in minutes."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.nn.sizes import Channels
from unmask.tokenizers.conv_stack import ConvStack, conv_decoder, conv_encoder
from unmask.tokenizers.image_tokenizer import channels_last
from unmask.tokenizers.quantizer import Codebook, VectorQuantizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer


@dataclass(frozen=True, kw_only=True)
class ConvVQ(ConvStack):
    """Shape of a :class:`ConvVQTokenizer`."""

    codes: Codebook = 512
    """V, vectors in the codebook."""
    code_dim: Channels = 16
    """D, numbers a code; few make nearest codes easier to use evenly."""
    l2_normalised: bool = True
    """Compare directions instead of vectors."""


class ConvVQTokenizer(VQTokenizer):
    """Residual convolutional encoder and decoder around a codebook.

    The shape of VQGAN (arXiv 2012.09841) without attention, at a size for small images: stride-2
    convolutions down, nearest doubling and a convolution up, GroupNorm and SiLU.
    """

    family = "conv_vq"

    def __init__(self, config: ConvVQ) -> None:
        super().__init__(config, config.codes)
        self.encoder = conv_encoder(config, config.code_dim)
        self.quantizer = VectorQuantizer(
            config.codes, config.code_dim, l2_normalised=config.l2_normalised
        )
        self.decoder = conv_decoder(config, config.code_dim)
        channels_last(self)  # a training step on a CPU gains about 15%
