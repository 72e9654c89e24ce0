"""From an image of any size to the one that a model sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.data.crops import (
    bilinear_center_crop,
    bilinear_random_crop,
    bilinear_whole,
    center_crop,
    clipped_box,
    inner_crop,
    random_crop,
    resized_box,
    tried_box,
)
from unmask.data.decoding import flattened
from unmask.errors import InputError
from unmask.image_size import ImageSize, height_width
from unmask.ranges import Between, Ranged

StillCrop = Literal["center", "center-bilinear", "inner", "none", "whole"]
"""Crops without chance."""
Crop = Literal[StillCrop, "random", "random-bilinear", "resized", "clipped"]
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
    """Size of the result in pixels: one number for a square, or height and width."""
    crop: Crop = "center"
    """ADM's "center" or "random" crop; the same by torchvision's bilinear resize, "center-bilinear"
    as MAGE's evaluation and "random-bilinear" as self-guidance's training has it; "whole" squeezes
    all of the image (FFHQ's); "none" takes images that have the size already; "resized" and
    "clipped" are of random area and shape, drawn until they fit or cut to fit; "inner" is what
    classifiers that were trained on those are judged on."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter that resizes crops of random area ("resized", "clipped")."""
    flip: bool = False
    """Mirror images left to right with probability 1/2."""
    channels: Annotated[int, Between(1, 3)] = 3
    """Channels of the result: 1 for grey, 3 for RGB."""

    def __post_init__(self) -> None:
        """Reject two channels."""
        super().__post_init__()
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
