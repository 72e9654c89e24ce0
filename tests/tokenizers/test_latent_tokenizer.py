"""The Gaussian of an encoder, and the order of tokens."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.latent_tokenizer import posterior, to_map, to_tokens


def test_samples_have_the_mean_and_spread_that_the_moments_tell() -> None:
    mean, logvar = 3.0, 2 * math.log(0.5)
    moments = torch.tensor([mean, logvar]).view(1, 2, 1, 1).expand(1, 2, 200, 200)
    noise = torch.randn(1, 1, 200, 200, generator=keyed_generator(1, "noise"))
    sample = posterior(moments).sample(noise)
    assert sample.mean().item() == pytest.approx(mean, abs=5 * 0.5 / 200)
    assert sample.std().item() == pytest.approx(0.5, rel=5 / math.sqrt(2 * 200 * 200))
    assert torch.equal(posterior(moments).sample(torch.zeros_like(noise)), moments[:, :1])


@pytest.mark.parametrize(("told", "used"), [(-31.0, -30.0), (21.0, 20.0), (-7.0, -7.0)])
def test_the_log_variance_is_bounded(told: float, used: float) -> None:
    moments = torch.tensor([0.0, told]).view(1, 2, 1, 1)
    assert posterior(moments).logvar.item() == used
    assert posterior(moments).std.item() == pytest.approx(math.exp(used / 2))


def test_tokens_are_the_places_row_by_row() -> None:
    latents = torch.arange(2 * 3 * 2 * 5).float().view(2, 3, 2, 5)
    tokens = to_tokens(latents)
    assert tokens.shape == (2, 10, 3)
    for row in range(2):
        for column in range(5):
            assert torch.equal(tokens[:, row * 5 + column], latents[:, :, row, column])
    assert torch.equal(to_map(tokens, 3, (2, 5)), latents)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(
        InputError, match=r"moments of shape \(1, 3, 2, 2\) are not \(B, 2C, h, w\)"
    ):
        posterior(torch.zeros(1, 3, 2, 2))
    with pytest.raises(
        InputError, match=r"noise of shape \(1, 2, 2\) does not fit .* \(1, 1, 2, 2"
    ):
        posterior(torch.zeros(1, 2, 2, 2)).sample(torch.zeros(1, 2, 2))
    with pytest.raises(
        InputError, match=r"float32 latents of shape \(1, 4, 2\) are not \(B, L, 3\)"
    ):
        to_map(torch.zeros(1, 4, 2), 3)
    with pytest.raises(InputError, match="int64 latents"):
        to_map(torch.zeros(1, 4, 3, dtype=torch.int64), 3)
    with pytest.raises(InputError, match="6 tokens form no square"):
        to_map(torch.zeros(1, 6, 3), 3)
    with pytest.raises(InputError, match="grid 2x2 holds 4 tokens, latents have 6"):
        to_map(torch.zeros(1, 6, 3), 3, (2, 2))
