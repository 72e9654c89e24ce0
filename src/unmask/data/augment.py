"""Random changes of colour and shape, and holes, for training classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from unmask.data.crops import drawn_place
from unmask.data.transform import Transform
from unmask.ranges import Between

HIGHEST = 10.0
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
FILL = (124, 116, 104)  # the mean in bytes

Operation = Callable[[Image.Image, float], Image.Image]
"""An image and a strength in [-10, 10]; the sign counts where the operation has a direction."""


def _bytes(change: Callable[[int, int], int], per_strength: float) -> Operation:
    """Every byte by itself, given the byte and a whole number that grows with the strength."""

    def apply(image: Image.Image, m: float) -> Image.Image:
        """The operation."""
        by = int(per_strength * abs(m))
        return image.point([change(value, by) for value in range(256)] * len(image.getbands()))

    return apply


def _fill(image: Image.Image) -> int | tuple[int, int, int]:
    return FILL if image.mode == "RGB" else round(sum(FILL) / 3)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, m: kind(image).enhance(1 + 0.09 * m)


def _affine(row: int, column: int, per_strength: float, *, of_size: bool = False) -> Operation:
    """One entry of the 2x3 matrix moves away from the identity."""

    def apply(image: Image.Image, m: float) -> Image.Image:
        """The operation."""
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        matrix[3 * row + column] += per_strength * m * (image.size[row] if of_size else 1)
        affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
        return image.transform(image.size, affine, matrix, bicubic, fillcolor=_fill(image))

    return apply


OPERATIONS: dict[str, Operation] = {
    "auto contrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
    "invert": lambda image, m: ImageOps.invert(image),
    "rotate": lambda image, m: image.rotate(
        3 * m, Image.Resampling.BICUBIC, fillcolor=_fill(image)
    ),
    "posterize": _bytes(lambda value, by: value >> (4 + by) << (4 + by), 0.4),
    "solarize": _bytes(lambda value, by: value if value < 256 - by else 255 - value, 25.6),
    "solarize add": _bytes(lambda value, by: min(value + by, 255) if value < 128 else value, 11),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear x": _affine(0, 1, 0.03),
    "shear y": _affine(1, 0, 0.03),
    "translate x": _affine(0, 2, 0.045, of_size=True),
    "translate y": _affine(1, 2, 0.045, of_size=True),
}


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(generator: torch.Generator, choices: int) -> int:
    return int(torch.randint(choices, (), generator=generator))


@dataclass(frozen=True, kw_only=True)
class Augment(Transform):
    """A transform that also changes colours and shapes (RandAugment, arXiv 1909.13719) and cuts
    holes (random erasing, arXiv 1708.04896), as timm 0.3.2 does for MAGE's fine-tuning."""

    operations: Annotated[int, Between(0, 100)] = 2
    """Number of changes drawn per image, with replacement, each made with probability 1/2."""
    magnitude: Annotated[float, Between(0, HIGHEST)] = 9.0
    """Mean strength of a change; 10 is the strongest."""
    spread: Annotated[float, Between(0, HIGHEST)] = 0.5
    """Standard deviation of a change's strength."""
    erase: Annotated[float, Between(0, 1)] = 0.0
    """Probability of a hole, filled with noise, in an image."""

    @property
    def random(self) -> bool:
        """A generator is needed whatever the crop."""
        return True

    def cut(self, image: Image.Image, generator: torch.Generator | None) -> Image.Image:
        """The part that is kept, changed."""
        assert generator is not None, "augmentation needs a generator"
        image = super().cut(image, generator)
        for _ in range(self.operations):
            operation = list(OPERATIONS.values())[_integer(generator, len(OPERATIONS))]
            strength = self.magnitude + self.spread * float(torch.randn((), generator=generator))
            sign = 1 if _uniform(generator) < 0.5 else -1
            if _uniform(generator) < 0.5:
                image = operation(image, sign * min(max(strength, 0.0), HIGHEST))
        return image

    def __call__(self, image: Image.Image, generator: torch.Generator | None = None) -> Tensor:
        """Cut and vary one image, ``(C, H, W)`` uint8; see :class:`Transform`."""
        pixels = super().__call__(image, generator)
        if generator is not None and _uniform(generator) < self.erase:
            erase_box(pixels, generator)
        return pixels


def erase_box(pixels: Tensor, generator: torch.Generator) -> None:
    """Fill a random box with noise of ImageNet's mean and deviation, in place.

    Area 2 to 33 %, aspect ratio 0.3 to 3.3, ten tries to fit. The source's noise is not clipped to
    what an image can hold; a tokenizer's input is.

    Args:
        pixels: ``(C, H, W)`` uint8.
        generator: the only randomness.
    """
    channels, height, width = pixels.shape
    for _ in range(10):
        area = height * width * _uniform(generator, 0.02, 1 / 3)
        ratio = math.exp(_uniform(generator, math.log(0.3), math.log(3.3)))
        high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if high < height and wide < width:
            break
    else:
        return
    top, left = drawn_place((width, height), (high, wide), generator)
    noise = torch.randn(channels, high, wide, generator=generator)
    mean, deviation = (torch.tensor(v)[:channels].view(-1, 1, 1) for v in (MEAN, DEVIATION))
    filled = ((mean + deviation * noise) * 255).round().clamp(0, 255)
    pixels[:, top : top + high, left : left + wide] = filled.to(torch.uint8)
