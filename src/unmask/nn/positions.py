"""Reading a sequence at some of its positions, with shapes that are known in advance."""

from __future__ import annotations

from torch import Tensor


def first_positions(wanted: Tensor, count: int) -> Tensor:
    """Where the wanted positions are.

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


def put(x: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """A copy of ``x``, ``(B, L)`` or ``(B, L, D)``, with ``(B, N[, D])`` values at ``where``."""
    if x.ndim == 2:
        return x.scatter(1, where, values)
    return x.scatter(1, where.unsqueeze(-1).expand_as(values), values)
