"""What all tokenizers of codes share: an encoder, a codebook and a decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer
from unmask.tokenizers.quantizer import Quantized, VectorQuantizer
from unmask.tokenizers.tokenizer import check_images, resolve_grid


class Reconstruction(NamedTuple):
    """Images after one pass through a tokenizer in training."""

    images: Tensor
    """``(B, C, H, W)`` on the scale of [0, 1], not clamped."""
    latents: Tensor
    """``(B, h, w, D)`` encoder outputs before quantisation."""
    quantized: Quantized
    """With values ``(B, h, w, D)`` and ids ``(B, h, w)``."""

    @property
    def penalties(self) -> dict[str, Tensor]:
        """What the bottleneck adds to the loss."""
        codes = self.quantized
        return {"codebook": codes.codebook_loss, "commitment": codes.commitment_loss}


class VQTokenizer(ImageTokenizer):
    """A ``Tokenizer`` made of three parts, which a family's class builds.

    A family's ``__init__`` sets ``encoder``, ``quantizer`` and ``decoder``, in this order (that of
    the weights in :attr:`identity`). The encoder takes images in the native range to ``(B, D, h,
    w)`` latents, the decoder takes code vectors of that shape back.
    """

    makes = "codes"
    quantizer: VectorQuantizer

    def __init__(self, config: ImageConfig, codes: int) -> None:
        super().__init__(config)
        self.codes = codes

    def latents(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, h, w, D)`` encoder outputs."""
        return self.look(images).permute(0, 2, 3, 1)

    def render(self, values: Tensor) -> Tensor:
        """``(B, h, w, D)`` code vectors to ``(B, C, H, W)`` on the scale of [0, 1], unclamped."""
        return self.paint(values.permute(0, 3, 1, 2))

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantise and decode with gradients; ``(B, C, H, W)`` in [0, 1]."""
        latents = self.latents(images)
        quantized = self.quantizer(latents)
        return Reconstruction(self.render(quantized.values), latents, quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` of any float in [0, 1] to ``(B, L)`` int64 ids, row-major.

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        return self.quantizer(self.latents(images.float())).ids.flatten(1)

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L)`` ids to ``(B, C, H, W)`` float32, clamped to [0, 1].

        Raises:
            InputError: ids that are no codes, or tokens that do not fill the grid.
        """
        rows, columns = resolve_grid(ids, self.codes, grid)
        values = self.quantizer.lookup(ids.view(-1, rows, columns))
        return self.render(values).float().clamp(0, 1)

    def reconstruct(self, images: Tensor) -> Tensor:
        """``(B, 3 or 1, H, W)`` in [0, 1] as they come back.

        Raises:
            InputError: as of :meth:`encode`.
        """
        grid = (images.shape[-2] // self.stride, images.shape[-1] // self.stride)
        return self.decode(self.encode(images), grid)
