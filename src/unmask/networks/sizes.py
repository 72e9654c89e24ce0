"""Ranges and checks of sizes that every network shares."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from unmask.errors import InputError
from unmask.ranges import Between

# Each alone is far beyond any published network; whether a network of such sizes fits into the
# machine is asked before it is built.
CodeCount = Annotated[int, Between(1, 2**24)]
Channels = Annotated[int, Between(1, 2**16)]
Width = Annotated[int, Between(1, 2**16)]
Depth = Annotated[int, Between(1, 1000)]
Heads = Annotated[int, Between(1, 2**12)]
TokenCount = Annotated[int, Between(1, 2**20)]
ClassCount = Annotated[int, Between(0, 10**6)]
Ratio = Annotated[float, Between(above=0, at_most=100)]
Dropout = Annotated[float, Between(0, below=1)]
Grid = Annotated[tuple[int, int], Between(1, 2**12)]


def token_grid(
    length: int, grid: tuple[int, int] | None = None, origin: str | None = None
) -> tuple[int, int]:
    """The (h, w) of ``length`` tokens; square unless given.

    Args:
        length: L.
        grid: (h, w) that is stated; None means square.
        origin: file that tells the length, named in errors; None where the network's sizes do.

    Raises:
        InputError: when the length is no square, or not h times w.
    """
    side = math.isqrt(max(length, 0))
    rows, columns = grid or (side, side)
    if min(rows, columns) < 1 or rows * columns != length:
        raise InputError(
            f"network.length={length} is not a {rows}x{columns} grid; use a square number of "
            "tokens, or give network.grid"
            if origin is None
            else f"{origin} has {length} tokens an image, which are not {rows}x{columns}; give "
            "their rows and columns with --grid"
        )
    return rows, columns


def patch_of(channels: int, count: int) -> int | None:
    """The p whose square times ``count`` is ``channels``; None where there is none."""
    patch = math.isqrt(channels // count)
    return patch if patch and patch**2 * count == channels else None


def stated_grid(length: int, grid: tuple[int, int] | None, origin: str) -> tuple[int, int] | None:
    """The ``grid`` of a network whose weights tell only how many tokens it has.

    Args:
        length: L, as the weights tell it.
        grid: (h, w) that the caller states; None means square.
        origin: file, named in errors.

    Returns:
        None for a square.

    Raises:
        InputError: when the length is no square, or not h times w.
    """
    rows, columns = token_grid(length, grid, origin)
    return None if rows == columns else (rows, columns)


def check_heads(width: int, heads: int, part: str = "") -> None:
    """Refuse a width that heads do not divide.

    Args:
        width: D.
        heads: attention heads of a block.
        part: what the names of these options begin with, such as ``decoder_``.

    Raises:
        InputError: naming both.
    """
    if width % heads:
        raise InputError(
            f"network.{part}width={width} does not divide by {part}heads={heads}; choose a multiple"
        )


Space = tuple[Literal["codes", "channels"], int]
"""Kind of a token: ("codes", V), one of V numbers, or ("channels", C), a vector of C numbers."""
