"""The crops that generators train on, as ADM's image loader cuts them.

guided-diffusion, ``image_datasets.py``: halve with a box filter while that leaves enough, then
resize bicubically.
"""

from __future__ import annotations

import math

import torch
from PIL import Image

from unmask.data.resizing import resized_part
from unmask.image_size import ImageSize, height_width

LEAST_CROP = 0.8  # of the short side, for random crops


def halved(image: Image.Image, size: ImageSize) -> Image.Image:
    """Halved with a box filter while it still covers ``size`` twice."""
    high, wide = height_width(size)
    while image.height >= 2 * high and image.width >= 2 * wide:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    return image


def covering(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """Width and height of the smallest image of its own aspect ratio that covers ``size``."""
    high, wide = height_width(size)
    scale = max(high / image.height, wide / image.width)
    return round(image.width * scale), round(image.height * scale)


def center_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """The largest central part of that shape, resized to ``size`` (ADM's centre crop)."""
    image, (high, wide) = halved(image, size), height_width(size)
    width, height = covering(image, size)
    top, left = (height - high) // 2, (width - wide) // 2
    return resized_part(image, (width, height), size, top=top, left=left)


def short_sides(size: int) -> range:
    """Sizes of the short side from which a random crop of ``size`` is cut (ADM: 80 % to all)."""
    return range(size, math.ceil(size / LEAST_CROP) + 1)


def random_crop(image: Image.Image, size: ImageSize, generator: torch.Generator) -> Image.Image:
    """A part of 80 to 100 % of what fits, anywhere in the image (ADM's random crop).

    Args:
        image: any size.
        size: of the result.
        generator: three integers are drawn: short side, top, left.
    """
    high, wide = height_width(size)

    def _draw(choices: range) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    short, least = _draw(short_sides(min(high, wide))), min(high, wide)
    larger = round(high * short / least), round(wide * short / least)
    image = halved(image, larger)
    width, height = covering(image, larger)
    top = _draw(range(height - high + 1))
    left = _draw(range(width - wide + 1))
    return resized_part(image, (width, height), size, top=top, left=left)
