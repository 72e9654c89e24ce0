"""Images for people: contact sheets, film strips of the unmasking, animations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unmask.files.durable import output

GREY = 0.5  # what a still masked patch shows


def to_uint8(pixels: Tensor) -> Tensor:
    """Float images in [0, 1], any shape, to uint8 by rounding (maskgit-pytorch's PNG rule)."""
    return (pixels.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def to_float(pixels: Tensor) -> Tensor:
    """Bytes, any shape, as the float32 in [0, 1] that all networks of this library take."""
    return pixels.float() / 255


def to_pil(pixels: Tensor) -> Image.Image:
    """``(C, H, W)`` float in [0, 1] or uint8, C 1 or 3, as a picture."""
    data = pixels if pixels.dtype == torch.uint8 else to_uint8(pixels)
    array = data.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def sheet(pixels: Tensor, columns: int, *, gap: int = 2, zoom: int = 1) -> Image.Image:
    """A contact sheet.

    Args:
        pixels: ``(N, C, H, W)`` float in [0, 1] or uint8.
        columns: images a row.
        gap: white pixels between images.
        zoom: whole-number magnification, nearest neighbour.
    """
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    data = pixels if pixels.dtype == torch.uint8 else to_uint8(pixels)
    size = rows * (height + gap) + gap, columns * (width + gap) + gap
    canvas = torch.full((channels, *size), 255, dtype=torch.uint8)
    for index, image in enumerate(data.cpu()):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    picture = to_pil(canvas)
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def usual_zoom(pixels: Tensor) -> int:
    """The magnification that brings the longer side of ``(..., H, W)`` images to about 64 pixels.

    A whole number, at least 1.
    """
    return max(1, 64 // max(pixels.shape[-2:]))


def veil(pixels: Tensor, masked: Tensor, grid: tuple[int, int]) -> Tensor:
    """Grey out the patches that are still masked.

    Args:
        pixels: ``(B, C, H, W)`` float in [0, 1].
        masked: ``(B, L)`` bool.
        grid: rows and columns of tokens, dividing H and W.

    Returns:
        ``(B, C, H, W)``.
    """
    height, width = pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1]
    cells = masked.view(-1, 1, *grid)
    cover = cells.repeat_interleave(height, 2).repeat_interleave(width, 3)  # (B, 1, H, W)
    return torch.where(cover, GREY, pixels)


def write_png(picture: Image.Image, path: Path, *, one_of_many: bool = False) -> None:
    """A picture as a file, whole or not there; see :func:`unmask.files.durable.output`.

    Raises:
        InputError: if the disk is full or refuses.
    """
    with output(path, one_of_many=one_of_many) as aside:
        picture.save(aside, format="PNG")


def write_gif(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 250) -> None:
    """An endless animation; the last frame stays four times as long.

    Raises:
        InputError: if the disk is full or refuses.
    """
    times = [milliseconds] * (len(frames) - 1) + [4 * milliseconds]
    first, *others = frames
    with output(path) as aside:
        first.save(aside, format="GIF", save_all=True, append_images=others, duration=times, loop=0)
