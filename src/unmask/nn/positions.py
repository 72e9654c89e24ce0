"""Reading a sequence at some of its positions, with shapes that are known in advance."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST_ROWS = 4
"""Least rows of a matrix for CPUs to multiply it as they do larger ones. With fewer rows they add
the products in another order, and rounding would tell an image how large its batch is."""


def first_positions(wanted: Tensor, count: int) -> Tensor:
    """Positions of what is wanted, equally many in each row.

    Args:
        wanted: ``(B, L)`` bool.
        count: N, in [0, L]; usually what the row that wants most wants.

    Returns:
        ``(B, N)`` int64: wanted positions, ascending, then (where a row wants fewer) others.
    """
    return wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :count]


def take(x: Tensor, where: Tensor) -> Tensor:
    """``(B, L, D)`` at ``(B, N)`` positions: ``(B, N, D)``."""
    return x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def widened(x: Tensor, count: int) -> Tensor:
    """``(B, N, ...)`` with the last of the N repeated up to ``count``, unless N is 0 or more."""
    if not 0 < x.shape[1] < count:
        return x
    at = torch.arange(count, device=x.device).clamp(max=x.shape[1] - 1)
    return x.index_select(1, at)


def put(x: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """A copy of ``x``, ``(B, L)`` or ``(B, L, D)``, with ``(B, N[, D])`` values at ``where``."""
    at = where if x.ndim == 2 else where.unsqueeze(-1).expand_as(values)
    return x.scatter(1, at, values)
