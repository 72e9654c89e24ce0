"""Forgetting activations changes memory and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.nn.block import PreNormBlock, recompute_blocks
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.encoder_decoder import Blocks


def kept_bytes(network: torch.nn.Module, *inputs: Tensor) -> tuple[int, list[Tensor]]:
    """Bytes that a forward pass keeps for the backward one, and the gradients."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    torch.manual_seed(3)  # dropout has no generator of its own
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        named = {"outputs": 8} if isinstance(network, DiffusionHead) else {}
        result = network(*inputs, **named).square().sum()
    kept = sum(sizes)
    return kept, list(torch.autograd.grad(result, list(network.parameters()), allow_unused=True))


def trunk() -> Blocks:
    return Blocks(PreNormBlock(16, 2, feed_forward=64, dropout=0.3) for _ in range(4))


def head() -> DiffusionHead:
    return DiffusionHead(4, 8, width=32, depth=6)


def test_gradients_and_dropout_are_the_same_and_less_is_kept() -> None:
    x = torch.randn(3, 9, 16, generator=keyed_generator("x"))
    z = torch.randn(30, 32, generator=keyed_generator("z"))
    cases = [
        (trunk(), (x,)),
        (head(), (torch.randn(30, 4, generator=keyed_generator("h")), z)),
    ]
    for network, inputs in cases:
        generator = keyed_generator("weights")
        for parameter in network.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        plain, wanted = kept_bytes(network, *inputs)
        recompute_blocks(network)
        less, given = kept_bytes(network, *inputs)
        assert less < 0.6 * plain
        torch.testing.assert_close(given, wanted)
