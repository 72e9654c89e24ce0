"""From an image of any size to the one that a model sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.data.adm_crop import center_crop, random_crop
from unmask.data.bilinear_crop import (
    bilinear_center_crop,
    bilinear_random_crop,
    bilinear_whole,
)
from unmask.data.modes import flattened
from unmask.data.resizing import resized_part
from unmask.errors import InputError
from unmask.image_size import ImageSize, checked_size, height_width
from unmask.ranges import Between, Ranged

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


def resized_box(
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


Crop = Literal[
    "center",
    "center-bilinear",
    "clipped",
    "inner",
    "none",
    "random",
    "random-bilinear",
    "resized",
    "whole",
]
CachedCrop = Literal["center", "center-bilinear", "whole"]
"""Those without chance that give every image its size."""
StillCrop = Literal["center", "center-bilinear", "inner", "none", "whole"]
"""Those without chance."""
STILL: dict[str, Callable[[Image.Image, ImageSize], Image.Image]] = {
    "center": center_crop,
    "center-bilinear": bilinear_center_crop,
    "inner": inner_crop,
    "whole": bilinear_whole,
}
RANDOM: dict[str, Callable[[Image.Image, ImageSize, torch.Generator], Image.Image]] = {
    "random": random_crop,
    "random-bilinear": bilinear_random_crop,
}
BOXES = {"resized": tried_box, "clipped": clipped_box}


@dataclass(frozen=True, kw_only=True)
class Transform(Ranged):
    """What is cut out of an image, and how it is varied."""

    size: ImageSize
    """Of the result, in pixels: one number for a square, or height and width."""
    crop: Crop = "center"
    """ADM's "center" or "random" crop; the same by torchvision's bilinear resize, "center-bilinear"
    as MAGE's evaluation and "random-bilinear" as self-guidance's training has it; "whole" squeezes
    all of the image (FFHQ's); "none" takes images that have the size already; "resized" and
    "clipped" are of random area and shape, drawn until they fit or cut to fit; "inner" is what
    classifiers that were trained on those are judged on."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """How crops of random area are resized."""
    flip: bool = False
    """Mirror with probability 1/2."""
    channels: Annotated[int, Between(1, 3)] = 3
    """1 for grey, 3 for RGB."""

    def __post_init__(self) -> None:
        """Reject sizes and channels that no image has."""
        super().__post_init__()
        object.__setattr__(self, "size", checked_size(self.size, "size"))
        if self.channels == 2:
            raise InputError(f"channels={self.channels} must be 1 (grey) or 3 (RGB)")

    @property
    def random(self) -> bool:
        """Whether a generator is needed."""
        return self.flip or self.crop in RANDOM or self.crop in BOXES

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
                f"the image is {image.height} x {image.width}, crop='none' needs {size[0]} x "
                f"{size[1]}; use crop='center' or resize the files (numbers are height x width)"
            )
        image = self.cut(image, generator)
        pixels = torch.from_numpy(np.array(image)).view(*size, self.channels)
        pixels = pixels.permute(2, 0, 1)
        if self.flip and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()

    def cut(self, image: Image.Image, generator: torch.Generator | None) -> Image.Image:
        """The part of one image that is kept, at the wanted size."""
        if self.crop in STILL:
            return STILL[self.crop](image, self.size)
        if self.crop == "none" or generator is None:
            return image
        if self.crop in RANDOM:
            return RANDOM[self.crop](image, self.size, generator)
        high, wide = height_width(self.size)
        box = BOXES[self.crop](*image.size, generator, shape=wide / high)
        return resized_box(image, box, self.size, Image.Resampling[self.resample.upper()])
