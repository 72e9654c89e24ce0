"""The two published networks at toy size: shapes, blocks, and that every weight takes part."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.objective import TokenizerLoss, TokenizerObjective
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import VQGAN, MaskGITVQGAN
from unmask.tokenizers.vqgan_blocks import (
    AttentionBlock,
    BranchShortcutBlock,
    Downsample,
    ResidualBlock,
    Upsample,
)

POOLED = MaskGITVQGAN(stem=32, widths=(32, 64), blocks=1, middle=1, codes=16, code_dim=4)
STRIDED = VQGAN(
    stem=8,
    widths=(8, 16, 16),
    blocks=1,
    attention=(2,),
    latent_channels=8,
    codes=16,
    code_dim=4,
    groups=4,
)
LOPSIDED = replace(STRIDED, decoder_widths=(16, 8, 32), attention=(0, 1), middle_attention=False)
CONFIGS = {
    "pooled": POOLED,
    "strided": STRIDED,
    "lopsided": LOPSIDED,
    "directions": replace(STRIDED, l2_normalised=True, pixels="unit", image_channels=1),
}


def seeded(config: MaskGITVQGAN | VQGAN) -> VQTokenizer:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return config.build()


def pictures(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=keyed_generator("pictures"))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=keyed_generator("noise"))


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_ranges_and_row_major_order(name: str) -> None:
    tokenizer, stride = seeded(CONFIGS[name]).eval(), CONFIGS[name].stride
    images = pictures(2, tokenizer.image_channels, 2 * stride, 3 * stride)
    ids = tokenizer.encode(images)
    assert (ids.shape, ids.dtype) == ((2, 6), torch.int64)
    by_place = tokenizer.quantizer(tokenizer.latents(images)).ids
    assert torch.equal(ids.view(2, 2, 3), by_place)
    made = tokenizer.decode(ids, (2, 3))
    assert made.shape == images.shape
    assert 0 <= made.min() <= made.max() <= 1
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(alone, ids), "codes do not depend on the batch"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_takes_part_and_can_be_trained(name: str) -> None:
    tokenizer = seeded(CONFIGS[name])
    objective = TokenizerObjective(tokenizer, TokenizerLoss(), batch_size=2).train()
    images = (pictures(2, tokenizer.image_channels, 16, 16) * 255).to(torch.uint8)
    objective((images, None))["loss"].backward()
    objective.after_step(0, keyed_generator("revive"))
    without = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    # a softmax does not see what shifts all keys alike, and the first gradients may vanish there
    assert [name for name in without if not name.endswith(".k.bias")] == []


@pytest.mark.parametrize("block", [ResidualBlock, BranchShortcutBlock])
def test_a_block_of_zeros_keeps_its_input_unless_it_widens(block: type[ResidualBlock]) -> None:
    x = noise(1, 32, 4, 4)
    same, wider = block(32, 32), block(32, 64)
    for part in (same, wider):
        torch.nn.init.zeros_(part.conv2.weight)
        if part.conv2.bias is not None:
            torch.nn.init.zeros_(part.conv2.bias)
    assert torch.equal(same(x), x)
    shown = wider(x)
    if block is BranchShortcutBlock:
        assert not shown.any(), "the shortcut sees the branch alone"
    else:
        torch.testing.assert_close(shown, wider.shortcut(x))


def test_attention_is_the_written_out_formula() -> None:
    block = AttentionBlock(8, groups=4)
    x = noise(2, 8, 3, 5)
    normed = block.norm(x)
    q, k, v = (part(normed).flatten(2) for part in (block.q, block.k, block.v))  # (B, D, N)
    weights = (q.transpose(1, 2) @ k * 8**-0.5).softmax(-1)  # (B, N, N)
    mixed = (v @ weights.transpose(1, 2)).view(x.shape)
    torch.testing.assert_close(block(x), x + block.proj_out(mixed), atol=1e-5, rtol=1e-5)


def test_resampling_halves_from_the_upper_left_and_doubles_every_place() -> None:
    x = noise(1, 1, 4, 6)
    down, up = Downsample(1), Upsample(1)
    for part, row, column in ((down, 0, 0), (up, 1, 1)):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
        part.weight.data[0, 0, row, column] = 1.0
    assert torch.equal(down(x), x[..., ::2, ::2])
    assert torch.equal(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (POOLED, {"widths": (32, 48)}, "widths (32, 32, 48) must be multiples of 32"),
        (POOLED, {"widths": ()}, "widths=() must have 1 to 12 entries"),
        (STRIDED, {"groups": 3}, "must be multiples of 3"),
        (STRIDED, {"decoder_widths": (8, 8)}, "decoder_widths=(8, 8) must name the 3 levels"),
        (STRIDED, {"attention": (3,)}, "attention=(3,) names a level not in widths"),
    ],
)
def test_impossible_sizes_are_named(
    config: MaskGITVQGAN | VQGAN, changes: dict, message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(config, **changes)
