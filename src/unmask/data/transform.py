"""From an image of any size to the square that a model sees.

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

from unmask.data.resized_crop import clipped_box, cut_box, inner_crop, tried_box
from unmask.errors import InputError

LEAST_CROP = 0.8  # of the short side, for random crops
Crop = Literal["center", "inner", "none", "random", "resized", "clipped"]


def resize_short(image: Image.Image, short: int) -> Image.Image:
    """Resize so that the shorter side has ``short`` pixels, keeping the aspect ratio."""
    while min(image.size) >= 2 * short:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = short / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def crop_square(image: Image.Image, size: int, *, top: int, left: int) -> Image.Image:
    """The ``size`` x ``size`` square whose upper left corner is at ``(top, left)``."""
    return image.crop((left, top, left + size, top + size))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The largest central square, resized to ``size`` x ``size`` (ADM's centre crop)."""
    image = resize_short(image, size)
    width, height = image.size
    return crop_square(image, size, top=(height - size) // 2, left=(width - size) // 2)


def short_sides(size: int) -> range:
    """Sizes of the short side from which a random crop of ``size`` is cut (ADM: 80 % to all)."""
    return range(size, math.ceil(size / LEAST_CROP) + 1)


def random_crop(image: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    """A square of 80 to 100 % of the short side anywhere in the image (ADM's random crop).

    Args:
        image: any size.
        size: side of the result, in pixels.
        generator: three integers are drawn: short side, top, left.
    """

    def _draw(choices: range) -> int:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    image = resize_short(image, _draw(short_sides(size)))
    width, height = image.size
    top = _draw(range(height - size + 1))
    return crop_square(image, size, top=top, left=_draw(range(width - size + 1)))


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey (1) or RGB (3); what is transparent shows white, 16-bit grey keeps its high byte."""
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What is cut out of an image, and how it is varied."""

    size: int
    """Side of the result, in pixels."""
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
        if self.size < 1:
            raise InputError(f"size={self.size} must be at least 1 pixel")
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
            ``(C, S, S)`` uint8.

        Raises:
            InputError: ``crop="none"`` and another size.
        """
        assert generator is not None or not self.random, "a random transform needs a generator"
        image = to_channels(image, self.channels)
        if self.crop == "none" and image.size != (self.size, self.size):
            raise InputError(
                f"the image is {image.width} x {image.height}, crop='none' needs "
                f"{self.size} x {self.size}; use crop='center' or resize the files"
            )
        image = self.cut(image, generator)
        pixels = torch.from_numpy(np.array(image)).view(self.size, self.size, self.channels)
        pixels = pixels.permute(2, 0, 1)
        if self.flip and torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.contiguous()

    def cut(self, image: Image.Image, generator: torch.Generator | None) -> Image.Image:
        """The square of one image."""
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
