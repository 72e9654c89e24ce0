"""What all tokenizers of codes share: an encoder, a codebook and a decoder."""

from __future__ import annotations

import json
from dataclasses import Field, asdict
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from unmask.tokenizers.quantizer import Quantized, VectorQuantizer
from unmask.tokenizers.tokenizer import (
    check_images,
    from_native,
    resolve_grid,
    square_grid,
    to_native,
    weights_identity,
)


class VQConfig(Protocol):
    """What every family's frozen dataclass of sizes tells."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @property
    def codes(self) -> int:
        """V, vectors in the codebook."""

    @property
    def code_dim(self) -> int:
        """D, numbers a code."""

    @property
    def l2_normalised(self) -> bool:
        """Whether codes are directions."""

    @property
    def image_channels(self) -> int:
        """1 for grey, 3 for colour."""

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""


class Reconstruction(NamedTuple):
    """Images after one pass through a tokenizer in training."""

    images: Tensor
    """``(B, C, H, W)`` on the scale of [0, 1], not clamped."""
    latents: Tensor
    """``(B, h, w, D)`` encoder outputs before quantisation."""
    quantized: Quantized
    """With values ``(B, h, w, D)`` and ids ``(B, h, w)``."""


class VQTokenizer(nn.Module):
    """A ``Tokenizer`` made of three parts, which a family's class builds.

    A family's ``__init__`` sets ``encoder``, ``quantizer`` and ``decoder``, in this order (that of
    the weights in :attr:`identity`). The encoder takes images in the native range to ``(B, D, h,
    w)`` latents, the decoder takes code vectors of that shape back.
    """

    family: ClassVar[str]
    """Names the class in ``config.json``."""
    config: VQConfig
    encoder: nn.Module
    quantizer: VectorQuantizer
    decoder: nn.Module

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.codes = config.codes
        self.stride = config.stride
        self.image_channels = config.image_channels
        self.native_range = config.native_range

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of configuration and weights, computed on each access."""
        config = json.dumps({"family": self.family, **asdict(self.config)}, sort_keys=True)
        return weights_identity(config, self.named_parameters())

    def grid(self, image_size: int) -> tuple[int, int]:
        """Rows and columns of tokens of a square image; InputError off the stride."""
        return square_grid(image_size, self.stride)

    def latents(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, h, w, D)`` encoder outputs."""
        return self.encoder(to_native(images, self.native_range)).permute(0, 2, 3, 1)

    def render(self, values: Tensor) -> Tensor:
        """``(B, h, w, D)`` code vectors to ``(B, C, H, W)`` on the scale of [0, 1], unclamped."""
        return from_native(self.decoder(values.permute(0, 3, 1, 2)), self.native_range)

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantise and decode with gradients; ``(B, C, H, W)`` in [0, 1]."""
        latents = self.latents(images)
        quantized = self.quantizer(latents)
        return Reconstruction(self.render(quantized.values), latents, quantized)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` float32 in [0, 1] to ``(B, L)`` int64 ids, row-major.

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        return self.quantizer(self.latents(images)).ids.flatten(1)

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L)`` ids to ``(B, C, H, W)`` float32, clamped to [0, 1].

        Raises:
            InputError: ids that are no codes, or tokens that do not fill the grid.
        """
        rows, columns = resolve_grid(ids, self.codes, grid)
        values = self.quantizer.lookup(ids.view(-1, rows, columns))
        return self.render(values).float().clamp(0, 1)
