"""How the weights of a network begin, before training or loading fills them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fill = Callable[..., Tensor]
"""Fills a tensor in place, reading the keyword ``generator``."""
xavier = nn.init.xavier_uniform_


def normal(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    """Deviation 0.02, cut at +-2: an absolute bound, so practically never reached."""
    return nn.init.trunc_normal_(weight, std=0.02, generator=generator)


class Vectors(nn.Module):
    """A part whose own parameters, if it has any, are vectors that begin as tables do."""


@torch.no_grad()
def fill(
    network: nn.Module, generator: torch.Generator, *, matrices: Fill, tables: Fill = normal
) -> None:
    """Fill every weight; biases begin at 0, norms at 1 and 0.

    Args:
        network: on the generator's device; filled in the order of ``network.modules()``.
        generator: the randomness.
        matrices: for weights of linear layers, unless they are a table's too (MAGE's output layer).
        tables: for weights of embeddings.
    """
    shared = {part.weight for part in network.modules() if isinstance(part, nn.Embedding)}
    for part in network.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            (tables if part.weight in shared else matrices)(part.weight, generator=generator)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        if isinstance(part, Vectors):
            for vectors in part.parameters(recurse=False):
                normal(vectors, generator=generator)
