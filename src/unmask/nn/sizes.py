"""Checks on sizes that every network shares."""

from __future__ import annotations

import math
from typing import Protocol, cast

from unmask.errors import InputError


def token_grid(length: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """The (h, w) of ``length`` tokens; square unless given.

    Raises:
        InputError: when the length is no square, or not h times w.
    """
    side = math.isqrt(max(length, 0))
    grid = (side, side) if grid is None else grid
    if length < 1 or grid[0] * grid[1] != length:
        raise InputError(
            f"network.length={length} is not a {grid[0]}x{grid[1]} grid; "
            "use a square number of tokens, or give network.grid"
        )
    return grid


def check_sizes(**sizes: int) -> None:
    """Refuse network sizes below 1 and a width that heads do not divide.

    Args:
        sizes: among them ``width`` and ``heads``.

    Raises:
        InputError: naming the size.
    """
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"network.{name}={value} must be at least 1")
    if sizes["width"] % sizes["heads"]:
        raise InputError(
            f"network.width={sizes['width']} does not divide by heads={sizes['heads']}; "
            "choose a multiple"
        )


class Codes(Protocol):
    """A network or a tokenizer of codes."""

    @property
    def codes(self) -> int:
        """V."""


class Latents(Protocol):
    """A network or a tokenizer of latents."""

    @property
    def channels(self) -> int:
        """C."""


def token_space(of: Codes | Latents) -> tuple[str, int]:
    """What a token of a network or tokenizer is: ("codes", V) or ("channels", C)."""
    codes = getattr(of, "codes", None)
    return ("codes", codes) if codes is not None else ("channels", cast(Latents, of).channels)
