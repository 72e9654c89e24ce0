"""Sizes of images: one number for a square, or height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import cattrs

from unmask.errors import InputError
from unmask.ranges import Between, Form, shown

Sides = int | tuple[int, int]
CachedCrop = Literal["center", "center-bilinear", "whole"]
"""Crops without chance that give every image its size."""


def checked_size(size: object) -> Sides:
    """The one form of a size that equal sizes share: a number for a square, else a pair.

    Raises:
        InputError: anything but one or two whole numbers from 1.
    """
    pair = (size, size) if not isinstance(size, Sequence) or isinstance(size, str) else tuple(size)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise InputError(
            f"image_size={shown(size)} must be at least 1 pixels: one whole number for a square, "
            "or height and width"
        )
    height, width = pair
    return height if height == width else (height, width)


ImageSize = Annotated[Sides, Between(1, 2**13), Form(checked_size)]
"""Pixels: the side of a square, or height and width; 8,192 squared take 800 MB as numbers."""


def height_width(size: ImageSize) -> tuple[int, int]:
    """Both sides in pixels."""
    return (size, size) if isinstance(size, int) else size


def accept_sizes(converter: cattrs.Converter) -> None:
    """Let a converter read an :data:`ImageSize` from a number or a list, as files hold them."""
    converter.register_structure_hook(Sides, lambda value, _: checked_size(value))
    converter.register_structure_hook(
        Sides | None, lambda value, _: None if value is None else checked_size(value)
    )


def size_text(size: ImageSize) -> str:
    """For sentences, such as "64x64" or "48x80", height first."""
    return "{}x{}".format(*height_width(size))


def size_words(size: ImageSize) -> str:
    """As an option takes it, such as "64" or "48 80"."""
    height, width = height_width(size)
    return str(height) if height == width else f"{height} {width}"
