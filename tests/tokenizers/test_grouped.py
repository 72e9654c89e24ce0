"""Tokens that hold a square of latents, as MAR's --patch_size makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.networks.sizes import patch_of
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer, ConvVQ, ConvVQTokenizer
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.tokenizers.patches import Patches, PatchTokenizer

PLAIN = ConvKL(widths=(8, 8, 8), blocks=(0, 0, 0), channels=3)


def plain() -> ConvKLTokenizer:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return ConvKLTokenizer(PLAIN).eval().requires_grad_(False)


@pytest.mark.parametrize("patch", [2, 3])
def test_a_token_is_a_square_of_latents_in_the_order_of_mar(patch: int) -> None:
    one = plain()
    many = one.resized_for(("channels", 3 * patch**2))
    assert isinstance(many, ConvKLTokenizer)
    assert (many.stride, many.channels, many.moment_channels) == (
        4 * patch, 3 * patch**2, 6 * patch**2
    )  # fmt: skip
    size = (4 * patch * 2, 4 * patch * 3)
    images = torch.rand(2, 3, *size, generator=keyed_generator("grouped"))
    noise = torch.randn(2, 3, 2 * patch, 3 * patch, generator=keyed_generator("noise"))
    latents = one.tokens(one.encode(images), noise).transpose(1, 2).unflatten(2, noise.shape[2:])
    squares = [
        latents[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].flatten(1)
        for r in range(2)
        for c in range(3)
    ]
    grouped_noise = torch.nn.functional.pixel_unshuffle(noise, patch)
    tokens = many.tokens(many.encode(images), grouped_noise)
    assert many.grid(size) == (2, 3)
    torch.testing.assert_close(tokens, torch.stack(squares, 1))
    decoded = one.decode(one.tokens(one.encode(images), noise), (2 * patch, 3 * patch))
    torch.testing.assert_close(many.decode(tokens, (2, 3)), decoded)
    torch.testing.assert_close(many.reconstruct(images), one.reconstruct(images))


def test_one_latent_a_token_is_what_it_always_was() -> None:
    one = plain()
    told = one.resized_for(("channels", 12)).resized_for(("channels", 3))
    assert told.identity == one.identity
    assert one.resized_for(("channels", 12)).identity != one.identity
    assert "patch_size" not in repr(sorted(one.state_dict()))


def test_what_cannot_be_grouped_is_left_as_it_is() -> None:
    assert plain().resized_for(("codes", 12)).stride == 4
    one, patches = plain(), PatchTokenizer(Patches(patch=2))
    codes = ConvVQTokenizer(ConvVQ(widths=(8, 8, 8), blocks=(0, 0, 0), codes=4, code_dim=4))
    for tokenizer, channels in ((one, 3), (one, 6), (codes, 12), (patches, 48)):
        assert tokenizer.resized_for(("channels", channels)) is tokenizer
    assert [patch_of(c, 3) for c in (3, 12, 27, 6, 1)] == [1, 2, 3, None, None]


def test_a_grouped_tokenizer_is_saved_as_one(tmp_path: Path) -> None:
    many = plain().resized_for(("channels", 12))
    save_tokenizer(many, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.config == replace(PLAIN, patch_size=2)
    assert again.identity == many.identity
