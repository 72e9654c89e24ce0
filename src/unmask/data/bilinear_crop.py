"""Crops that sources cut with torchvision's ``Resize``, bilinear with antialiasing, of a picture.

Its rule of sizes: the side that just fits gets the wanted length, the other its share cut off to
a whole number, where ADM's loader rounds.
"""

from __future__ import annotations

import torch
from PIL import Image

from unmask.data.resizing import resized_part
from unmask.image_size import ImageSize, height_width

BILINEAR = Image.Resampling.BILINEAR


def covering(image: Image.Image, size: ImageSize) -> tuple[int, int]:
    """Width and height of the smallest resized image that covers ``size``."""
    high, wide = height_width(size)
    if image.width * high <= image.height * wide:
        return wide, max(high, int(wide * image.height / image.width))
    return max(wide, int(high * image.width / image.height)), high


def bilinear_center_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """``Resize(S)`` and ``CenterCrop(S)``, as MAGE's reference images are cut.

    MAGE, ``prepare_imgnet_val.py``.
    """
    high, wide = height_width(size)
    width, height = covering(image, size)
    top, left = round((height - high) / 2), round((width - wide) / 2)
    return resized_part(image, (width, height), size, top=top, left=left, resample=BILINEAR)


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
    high, wide = height_width(size)
    width, height = covering(image, size)
    top = int(torch.randint(height - high + 1, (), generator=generator))
    left = int(torch.randint(width - wide + 1, (), generator=generator))
    return resized_part(image, (width, height), size, top=top, left=left, resample=BILINEAR)


def bilinear_whole(image: Image.Image, size: ImageSize) -> Image.Image:
    """``Resize((S, S))``: nothing is cut off, what is not of that shape is squeezed.

    maskgit-pytorch, for FFHQ's squares.
    """
    high, wide = height_width(size)
    return image.resize((wide, high), BILINEAR)
