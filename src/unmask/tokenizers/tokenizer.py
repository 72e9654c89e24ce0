"""What every tokenizer offers, whatever its tokens are, and the check of images at its door."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.image_size import ImageSize, height_width, size_words
from unmask.networks.sizes import Space

RANGE_TOLERANCE = 1e-3  # antialiased resizing overshoots by less


@runtime_checkable
class Tokenizer(Protocol):
    """Images to what a cache stores of them, to tokens, and back to images.

    Images are float32 in [0, 1] outside, always. A class that inherits from this one has the usual
    ``grid`` and, for codes, all that depends on the kind; any other class with these members will
    do as well.
    """

    space: Space
    """What a token is: ("codes", V) or ("channels", C)."""
    stride: int
    """Pixels along one side of the patch that a token stands for."""
    image_channels: int
    """Channels of the images: 1 for grey, 3 for colour."""
    native_range: tuple[float, float]
    """Values that the network itself sees in place of 0 and 1."""
    moment_channels: int = 0
    """M, numbers stored for a token of latents (2C, mean and log variance, or C of an encoder
    without chance); 0 for codes."""
    scale: float = 1.0
    """Factor from the decoder's latents to tokens, which then have a spread of about 1."""

    @property
    def identity(self) -> str:
        """Short hash of configuration and weights: equal identities give equal tokens."""

    def grid(self, image_size: ImageSize) -> tuple[int, int]:
        """Rows and columns of tokens of an image.

        Raises:
            InputError: the size does not divide by the stride.
        """
        return grid_of(image_size, self.stride)

    def encode(self, images: Tensor) -> Tensor:
        """What is stored of ``(B, C, H, W)`` images.

        Returns:
            ``(B, L)`` int64 codes in [0, V), row-major; or ``(B, M, h, w)`` float32 moments, mean
            and log variance, neither scaled nor clamped.
        """

    def tokens(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """What a generator learns and makes.

        Args:
            stored: as :meth:`encode` gives it.
            noise: ``(B, C, h, w)`` standard normal numbers with which latents are drawn; None takes
                their mean. Codes, and an encoder without chance, do not look at it.

        Returns:
            ``(B, L)`` codes as they are, or ``(B, L, C)`` scaled latents, row-major.
        """
        return stored

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L)`` codes or ``(B, L, C)`` latents to ``(B, C, H, W)`` float32 in [0, 1].

        Without a grid the tokens are taken to form a square.
        """


def noise_shape(tokenizer: Tokenizer, grid: tuple[int, int]) -> tuple[int, int, int]:
    """``(C, h, w)``, the random numbers that an image's latents are drawn with; C is 0 of codes."""
    kind, count = tokenizer.space
    return (count if kind == "channels" else 0, *grid)


def grid_of(image_size: ImageSize, stride: int) -> tuple[int, int]:
    """Rows and columns of tokens of an image.

    Raises:
        InputError: the size does not divide by the stride.
    """
    height, width = height_width(image_size)
    if min(height, width) < stride or height % stride or width % stride:
        near = tuple(max(1, round(side / stride)) * stride for side in (height, width))
        raise InputError(
            f"image size {size_words(image_size)} does not divide by this tokenizer's stride "
            f"{stride}; use a multiple, for example {size_words((near[0], near[1]))}"
        )
    return height // stride, width // stride


def resolve_grid(ids: Tensor, codes: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """The rows and columns that ``(B, L)`` ids form, a square where no grid is given.

    Raises:
        InputError: wrong shape, a length that does not fit the grid, or (looked at on the CPU
            only, elsewhere it would wait for the device) an id outside [0, codes).
    """
    if ids.ndim != 2:
        raise InputError(f"ids of shape {tuple(ids.shape)} are not (B, L); reshape them")
    rows, columns = fill_grid(ids.shape[1], grid, "ids")
    if ids.device.type == "cpu" and ids.numel():
        low, high = (int(v) for v in ids.aminmax())
        if low < 0 or high >= codes:
            raise InputError(
                f"id {low if low < 0 else high} lies outside [0, {codes}), the codes of this "
                "tokenizer; reveal every token before decoding, and use the tokenizer of these ids"
            )
    return rows, columns


def fill_grid(length: int, grid: tuple[int, int] | None, what: str) -> tuple[int, int]:
    """The rows and columns that so many tokens form, a square where no grid is given.

    Raises:
        InputError: a length that does not fit the grid; ``what`` names the tokens.
    """
    side = math.isqrt(length)
    if grid is None and side * side != length:
        raise InputError(f"{length} tokens form no square; pass grid=(rows, columns)")
    rows, columns = grid or (side, side)
    if rows * columns != length:
        raise InputError(
            f"grid {rows}x{columns} holds {rows * columns} tokens, {what} have {length}"
        )
    return rows, columns


def check_images(
    images: Tensor, *, channels: int, stride: int, check_range: bool | None = None
) -> None:
    """Reject images that a tokenizer cannot take.

    Args:
        images: what the caller gave; wanted is ``(B, C, H, W)`` floating point in [0, 1].
        channels: C of the tokenizer.
        stride: what H and W must divide by.
        check_range: look at the values. None does so on the CPU only, because reading a value
            back from an accelerator stalls it.

    Raises:
        InputError: naming the value, the limit and the way out.
    """
    shape = tuple(images.shape)
    if images.ndim != 4:
        raise InputError(f"images of shape {shape} are not (B, C, H, W); add or drop dimensions")
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise InputError(f"images are {kind}, wanted is float32 in [0, 1]; divide by 255")
    if shape[1] != channels:
        raise InputError(
            f"images have {shape[1]} channels, this tokenizer takes {channels}; convert to "
            f"{'grey' if channels == 1 else 'colour'} or use another tokenizer"
        )
    for name, size in (("height", shape[2]), ("width", shape[3])):
        if size < stride or size % stride:
            near = max(1, round(size / stride)) * stride
            raise InputError(
                f"image {name} {size} does not divide by {stride}; crop or resize, to {near} for "
                "example"
            )
    if check_range or (check_range is None and images.device.type == "cpu"):
        _check_range(images)


def _check_range(images: Tensor) -> None:
    if not images.numel():
        return
    low, high = (float(v) for v in images.aminmax())
    # written so that a NaN fails it too
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(
            f"image values span [{low:.4g}, {high:.4g}], wanted is [0, 1]; rescale them "
            "((x + 1) / 2 from [-1, 1], x / 255 from bytes)"
        )


def to_native(images: Tensor, native_range: tuple[float, float]) -> Tensor:
    """[0, 1] to the values that the network sees, any shape."""
    low, high = native_range
    return images * (high - low) + low


def from_native(values: Tensor, native_range: tuple[float, float]) -> Tensor:
    """What the network puts out to [0, 1], any shape, not clamped."""
    low, high = native_range
    return (values - low) / (high - low)


def weights_identity(config: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Sixteen hexadecimal digits that stand for a configuration and its weights.

    Args:
        config: the configuration as text.
        weights: names and tensors; every byte of them counts.
    """
    digest = blake2b(config.encode(), digest_size=8)
    for name, tensor in weights:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
