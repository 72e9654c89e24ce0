"""From an image of any size to the one that a model sees.

The crops that generators train on are those of ADM's image loader (guided-diffusion,
image_datasets.py): halve with a box filter while that leaves enough, then bicubic. MAGE and all
that learns to name classes takes crops of random area instead (:mod:`unmask.data.resized_crop`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.data.modes import flattened
from unmask.data.resized_crop import clipped_box, cut_box, inner_crop, tried_box
from unmask.errors import InputError
from unmask.image_size import ImageSize, checked_size, height_width

LEAST_CROP = 0.8  # of the short side, for random crops
Crop = Literal["center", "inner", "none", "random", "resized", "clipped"]


def resize_short(image: Image.Image, size: ImageSize) -> Image.Image:
    """The smallest image of its own aspect ratio that covers ``size``.

    For a square the shorter side gets that many pixels.
    """
    high, wide = height_width(size)
    while image.height >= 2 * high and image.width >= 2 * wide:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = max(high / image.height, wide / image.width)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def crop_square(image: Image.Image, size: ImageSize, *, top: int, left: int) -> Image.Image:
    """The square or rectangle whose upper left corner is at ``(top, left)``."""
    high, wide = height_width(size)
    return image.crop((left, top, left + wide, top + high))


def center_crop(image: Image.Image, size: ImageSize) -> Image.Image:
    """The largest central part of that shape, resized to ``size`` (ADM's centre crop)."""
    image, (high, wide) = resize_short(image, size), height_width(size)
    top, left = (image.height - high) // 2, (image.width - wide) // 2
    return crop_square(image, size, top=top, left=left)


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
    image = resize_short(image, (round(high * short / least), round(wide * short / least)))
    top = _draw(range(image.height - high + 1))
    return crop_square(image, size, top=top, left=_draw(range(image.width - wide + 1)))


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What is cut out of an image, and how it is varied."""

    size: ImageSize
    """Of the result, in pixels: one number for a square, or height and width."""
    crop: Crop = "center"
    """ADM's centre or random crop; "none" takes images that have the size already; "resized" and
    "clipped" are of random area and shape, drawn until they fit or cut to fit; "inner" is what
    classifiers that were trained on those are judged on."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """How crops of random area are resized."""
    flip: bool = False
    """Mirror with probability 1/2."""
    channels: int = 3
    """1 for grey, 3 for RGB."""

    def __post_init__(self) -> None:
        """Reject sizes and channels that no image has."""
        object.__setattr__(self, "size", checked_size(self.size, "size"))
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels} must be 1 (grey) or 3 (RGB)")
        if self.crop not in get_args(Crop):
            raise InputError(f"crop={self.crop!r} must be one of {', '.join(get_args(Crop))}")

    @property
    def random(self) -> bool:
        """Whether a generator is needed."""
        return self.flip or self.crop in ("random", "resized", "clipped")

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        """Cut and vary one image.

        Args:
            image: any size and mode.
            generator: needed when ``random``; the crop is drawn first, then the flip.

        Returns:
            ``(C, H, W)`` uint8.

        Raises:
            InputError: ``crop="none"`` and another size, or pixels of unknown depth.
        """
        assert generator is not None or not self.random, "a random transform needs a generator"
        image = flattened(image).convert("L" if self.channels == 1 else "RGB")
        size = height_width(self.size)
        if self.crop == "none" and (image.height, image.width) != size:
            raise InputError(
                f"the image's height x width are {image.height} x {image.width}, crop='none' needs "
                f"{size[0]} x {size[1]}; use crop='center' or resize the files"
            )
        image = self.cut(image, generator)
        pixels = torch.from_numpy(np.array(image)).view(*size, self.channels)
        pixels = pixels.permute(2, 0, 1)
        if self.flip and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()

    def cut(self, image: Image.Image, generator: torch.Generator | None) -> Image.Image:
        """The part of one image that is kept, at the wanted size."""
        if self.crop == "center":
            return center_crop(image, self.size)
        if self.crop == "inner":
            return inner_crop(image, self.size)
        if self.crop == "none" or generator is None:
            return image
        if self.crop == "random":
            return random_crop(image, self.size, generator)
        draw = tried_box if self.crop == "resized" else clipped_box
        resample = Image.Resampling[self.resample.upper()]
        return cut_box(image, draw(*image.size, generator), self.size, resample)
