"""Crops of random area and shape, resized to one size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from PIL import Image

from unmask.data.resizing import resized_part
from unmask.image_size import ImageSize, height_width

AREAS = (0.2, 1.0)  # of the image, as all of MAGE's trainings have it
RATIOS = (3 / 4, 4 / 3)  # width over height of a box, where squares are made of it
TRIES = 10


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def clipped_box(width: int, height: int, generator: torch.Generator, *, shape: float = 1.0) -> Box:
    """A random box, cut to the image where it is larger (BYOL's; MAGE, ``util/crop.py``).

    Args:
        width: of the image.
        height: of the image.
        generator: area, shape, top and left are drawn, in this order.
        shape: width over height of what is made of the box, around which its own varies.
    """
    wide, high = _sides(width * height, generator, shape)
    return _place(min(wide, width), min(high, height), width, height, generator)


def tried_box(width: int, height: int, generator: torch.Generator, *, shape: float = 1.0) -> Box:
    """A random box, drawn anew until it fits (torchvision's and timm's).

    After ten tries it is the central one of the nearest shape that is allowed. Arguments as of
    :func:`clipped_box`.
    """
    for _ in range(TRIES):
        wide, high = _sides(width * height, generator, shape)
        if wide <= width and high <= height:
            return _place(wide, high, width, height, generator)
    wide = min(width, max(1, round(height * RATIOS[1] * shape)))
    high = min(height, max(1, round(width / (RATIOS[0] * shape))))
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def _sides(pixels: int, generator: torch.Generator, shape: float) -> tuple[int, int]:
    area = pixels * _uniform(*AREAS, generator)
    ratio = math.exp(_uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), generator)) * shape
    return max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(torch.empty(()).uniform_(low, high, generator=generator))


def _place(wide: int, high: int, width: int, height: int, generator: torch.Generator) -> Box:
    top = int(torch.randint(height - high + 1, (), generator=generator))
    return Box(top, int(torch.randint(width - wide + 1, (), generator=generator)), high, wide)


def cut_box(
    image: Image.Image, box: Box, size: ImageSize, resample: Image.Resampling
) -> Image.Image:
    """The box, resized to ``size``."""
    high, wide = height_width(size)
    part = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return part.resize((wide, high), resample)


def inner_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """The centre seven eighths of what fits, as classifiers are usually judged.

    MAGE (``util/datasets.py``): 256 pixels out of 292.
    """
    high, wide = height_width(size)
    least_high, least_wide = high * 8 // 7, wide * 8 // 7
    scale = max(least_high / image.height, least_wide / image.width)
    height = max(least_high, int(image.height * scale))
    width = max(least_wide, int(image.width * scale))
    left, top = round((width - wide) / 2), round((height - high) / 2)
    return resized_part(image, (width, height), size, top=top, left=left)
