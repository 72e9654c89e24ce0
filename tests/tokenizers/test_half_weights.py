"""Tokenizers whose weights were converted encode and decode, and are known for others."""

from __future__ import annotations

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.tokenizers.folder import load_tokenizer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["fashion-vq", "fashion-kl", "patches-4-grey"])
def test_converted_weights_work(name: str, dtype: torch.dtype) -> None:
    images = torch.rand(3, 1, 28, 28, generator=keyed_generator("half tokenizer"))
    tokenizer = load_tokenizer(name)
    stored, exact = tokenizer.encode(images), tokenizer.reconstruct(images)
    before = tokenizer.identity
    tokenizer.to(dtype)
    assert (tokenizer.identity == before) == (not list(tokenizer.parameters()))
    found, made = tokenizer.encode(images), tokenizer.reconstruct(images)
    assert found.dtype == stored.dtype
    assert made.dtype == torch.float32
    assert (made - exact).abs().mean() < 0.02
