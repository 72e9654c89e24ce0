"""Attention and blocks against their formulas, and where dropout hits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unmask.draws import keyed_generator
from unmask.nn.block import Attention, FeedForward, PostNormBlock, PreNormBlock


def random_input(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=keyed_generator(0, "input"), dtype=torch.float64)


def gelu_erf(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(norm: nn.LayerNorm, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
    return centred * scale * norm.weight + norm.bias


def attend(attention: Attention, x: Tensor) -> Tensor:
    """Head by head, from slices of the fused matrix."""
    width = x.shape[-1]
    size = width // attention.heads
    weight, bias = attention.qkv.weight, attention.qkv.bias
    mixed = []
    for head in range(attention.heads):
        rows = [
            slice(part * width + head * size, part * width + (head + 1) * size)
            for part in (0, 1, 2)
        ]
        q, k, v = (x @ weight[r].T + (0 if bias is None else bias[r]) for r in rows)
        mixed.append((q @ k.transpose(-1, -2) / math.sqrt(size)).softmax(-1) @ v)
    return torch.cat(mixed, -1) @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_attention_is_softmax_of_scaled_products_head_by_head(qkv_bias: bool) -> None:
    module = Attention(12, 3, qkv_bias=qkv_bias, dropout=0.5, output_dropout=0.5).double().eval()
    x = random_input(2, 5, 12)
    torch.testing.assert_close(module(x), attend(module, x))


def test_pre_norm_block_adds_each_branch_of_the_normalised_input() -> None:
    block = PreNormBlock(8, 2, feed_forward=20, norm_eps=1e-5).double()
    x = random_input(2, 4, 8)
    inner = block.feed_forward
    y = x + attend(block.attention, layer_norm(block.attention_norm, x, 1e-5))
    z = layer_norm(block.feed_forward_norm, y, 1e-5)
    z = gelu_erf(z @ inner.expand.weight.T + inner.expand.bias)
    y = y + z @ inner.contract.weight.T + inner.contract.bias
    torch.testing.assert_close(block(x), y)


def test_post_norm_block_normalises_each_sum() -> None:
    block = PostNormBlock(8, 2, feed_forward=20, gelu="tanh").double()
    x = random_input(2, 4, 8)
    inner = block.feed_forward
    y = layer_norm(block.attention_norm, x + attend(block.attention, x), 1e-12)
    z = gelu_tanh(y @ inner.expand.weight.T + inner.expand.bias)
    y = layer_norm(
        block.feed_forward_norm, y + z @ inner.contract.weight.T + inner.contract.bias, 1e-12
    )
    torch.testing.assert_close(block(x), y)


def test_full_dropout_silences_both_branches_of_a_pre_norm_block() -> None:
    block = PreNormBlock(8, 2, feed_forward=16, dropout=1.0).double()
    x = random_input(2, 4, 8)
    assert torch.equal(block.train()(x), x)
    assert not torch.equal(block.eval()(x), x)


def test_post_norm_dropout_hits_the_attention_output_only_on_request() -> None:
    x = random_input(2, 4, 8)
    port = PostNormBlock(8, 2, feed_forward=16, dropout=1.0).double()
    original = PostNormBlock(
        8, 2, feed_forward=16, dropout=1.0, attention_output_dropout=1.0
    ).double()
    original.load_state_dict(port.state_dict())
    twice = layer_norm(port.feed_forward_norm, layer_norm(port.attention_norm, x, 1e-12), 1e-12)
    torch.testing.assert_close(original.train()(x), twice)
    first = layer_norm(port.attention_norm, x + attend(port.attention, x), 1e-12)
    torch.testing.assert_close(port.train()(x), layer_norm(port.feed_forward_norm, first, 1e-12))


def test_attention_dropout_zeroes_probabilities_not_the_output_bias() -> None:
    module = Attention(8, 2, qkv_bias=True, dropout=1.0, output_dropout=0.0).train()
    out = module(random_input(1, 3, 8).float())
    torch.testing.assert_close(out, module.out.bias.expand(1, 3, 8))


def test_inner_dropout_leaves_only_the_last_bias() -> None:
    module = FeedForward(8, 16, inner_dropout=1.0).train()
    out = module(random_input(2, 8).float())
    torch.testing.assert_close(out, module.contract.bias.expand(2, 8))
