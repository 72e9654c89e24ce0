"""The crops that projects train and judge on: which part of an image is kept, and at which size.

Two rules say how large the whole is made before a part is cut out. ADM's (guided-diffusion,
``image_datasets.py``): halved with a box filter while that leaves enough, then bicubic, with sides
rounded. torchvision's ``Resize``: bilinear with antialiasing; the side that just fits gets the
wanted length, the other its share cut off to a whole number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from PIL import Image

from unmask.image_size import ImageSize, height_width

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
MOST = 16  # parts that a resized image may be as large as, if it is larger than the image was
LEAST_CROP = 0.8  # of the short side, for ADM's random crops
AREAS = (0.2, 1.0)  # of the image, as all of MAGE's trainings have it
RATIOS = (3 / 4, 4 / 3)  # width over height of a box, where squares are made of it
TRIES = 10


def resized_part(
    image: Image.Image,
    whole: tuple[int, int],
    size: ImageSize,
    *,
    top: int,
    left: int,
    resample: Image.Resampling = BICUBIC,
) -> Image.Image:
    """What ``image.resize(whole)`` shows from ``(top, left)`` on, ``size`` large.

    A strip of 1 x 65,000 pixels, enlarged to a short side of 256, would have four billion. Of such
    images only the part is computed, which may differ by what is rounded or cut off to a byte
    between the two directions.

    Args:
        image: any size.
        whole: width and height of the whole, resized.
        size: of the part.
        top: first row of the part in the whole.
        left: first column.
        resample: the filter.
    """
    high, wide = height_width(size)
    width, height = whole
    if width * height <= max(image.width * image.height, MOST * high * wide):
        return image.resize(whole, resample).crop((left, top, left + wide, top + high))
    across, down = image.width / width, image.height / height
    right, bottom = (left + wide) * across, (top + high) * down
    box = (left * across, top * down, min(right, image.width), min(bottom, image.height))
    return image.resize((wide, high), resample, box=box)


def drawn_place(
    whole: tuple[int, int], size: ImageSize, generator: torch.Generator
) -> tuple[int, int]:
    """First row and column of a part, anywhere in a whole of that width and height."""
    high, wide = height_width(size)
    top = int(torch.randint(whole[1] - high + 1, (), generator=generator))
    return top, int(torch.randint(whole[0] - wide + 1, (), generator=generator))


def halved(image: Image.Image, size: ImageSize) -> Image.Image:
    """Halved with a box filter while it still covers ``size`` twice."""
    high, wide = height_width(size)
    while image.height >= 2 * high and image.width >= 2 * wide:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    return image


def covering(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """Width and height of the smallest image of its own shape that covers ``size``, by ADM."""
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
    least = min(high, wide)
    sides = short_sides(least)
    short = sides[int(torch.randint(len(sides), (), generator=generator))]
    larger = round(high * short / least), round(wide * short / least)
    image = halved(image, larger)
    whole = covering(image, larger)
    top, left = drawn_place(whole, size, generator)
    return resized_part(image, whole, size, top=top, left=left)


def resize_covering(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """Width and height of the smallest image that covers ``size``, by torchvision's ``Resize``."""
    high, wide = height_width(size)
    if image.width * high <= image.height * wide:
        return wide, max(high, int(wide * image.height / image.width))
    return max(wide, int(high * image.width / image.height)), high


def _centre(
    image: Image.Image, whole: tuple[int, int], size: ImageSize, resample: Image.Resampling
) -> Image.Image:
    """The central part of the whole, by torchvision's ``CenterCrop``."""
    high, wide = height_width(size)
    left, top = round((whole[0] - wide) / 2), round((whole[1] - high) / 2)
    return resized_part(image, whole, size, top=top, left=left, resample=resample)


def bilinear_center_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """``Resize(S)`` and ``CenterCrop(S)``, as MAGE's reference images are cut.

    MAGE, ``prepare_imgnet_val.py``.
    """
    return _centre(image, resize_covering(image, size), size, BILINEAR)


def bilinear_random_crop(
    image: Image.Image, size: ImageSize, generator: torch.Generator
) -> Image.Image:
    """``Resize(S)`` and ``RandomCrop(S)``, on which self-guidance trains: all of the short side.

    UnlockMGM, ``training/data.py``.

    Args:
        image: any size.
        size: of the result.
        generator: two integers are drawn: top, left.
    """
    whole = resize_covering(image, size)
    top, left = drawn_place(whole, size, generator)
    return resized_part(image, whole, size, top=top, left=left, resample=BILINEAR)


def bilinear_whole(image: Image.Image, size: ImageSize) -> Image.Image:
    """``Resize((S, S))``: nothing is cut off, what is not of that shape is squeezed.

    maskgit-pytorch, for FFHQ's squares.
    """
    high, wide = height_width(size)
    return image.resize((wide, high), BILINEAR)


def inner_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """The centre seven eighths of what fits, as classifiers are usually judged.

    MAGE (``util/datasets.py``): 256 pixels out of 292.
    """
    high, wide = (side * 8 // 7 for side in height_width(size))
    scale = max(high / image.height, wide / image.width)
    whole = max(wide, int(image.width * scale)), max(high, int(image.height * scale))
    return _centre(image, whole, size, BICUBIC)


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
    high, wide = min(high, height), min(wide, width)
    return Box(*drawn_place((width, height), (high, wide), generator), high, wide)


def tried_box(width: int, height: int, generator: torch.Generator, *, shape: float = 1.0) -> Box:
    """A random box, drawn anew until it fits (torchvision's and timm's).

    After ten tries it is the central one of the nearest shape that is allowed. Arguments as of
    :func:`clipped_box`.
    """
    for _ in range(TRIES):
        wide, high = _sides(width * height, generator, shape)
        if wide <= width and high <= height:
            return Box(*drawn_place((width, height), (high, wide), generator), high, wide)
    wide = min(width, max(1, round(height * RATIOS[1] * shape)))
    high = min(height, max(1, round(width / (RATIOS[0] * shape))))
    return Box((height - high) // 2, (width - wide) // 2, high, wide)


def _sides(pixels: int, generator: torch.Generator, shape: float) -> tuple[int, int]:
    area = pixels * _uniform(*AREAS, generator)
    ratio = math.exp(_uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), generator)) * shape
    return max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return float(torch.empty(()).uniform_(low, high, generator=generator))


def resized_box(
    image: Image.Image, box: Box, size: ImageSize, resample: Image.Resampling
) -> Image.Image:
    """The box, resized to ``size``."""
    high, wide = height_width(size)
    part = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return part.resize((wide, high), resample)
