"""Pictures of any floating type are the same pictures to a tokenizer."""

from __future__ import annotations

import pytest
import torch
from toy_system import toy_tokenizer

from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_codes_and_moments_do_not_depend_on_the_type(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes = toy_tokenizer()
    channels = codes.image_channels
    seen = images[:, :channels]
    assert torch.equal(codes.encode(seen), codes.encode(seen.float()))
    latents = ConvKLTokenizer(ConvKL(widths=(8, 8), blocks=(0, 0), channels=2)).eval()
    images = images[:, : latents.image_channels]
    moments = latents.encode(images)
    assert moments.dtype == torch.float32
    assert torch.equal(moments, latents.encode(images.float()))
