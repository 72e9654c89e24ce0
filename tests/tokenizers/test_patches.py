"""Patches as tokens: the order inside a token, the way back, names, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.patches import Patches, PatchTokenizer
from unmask.tokenizers.tokenizer import Tokenizer


def test_channel_is_slowest_in_a_token_then_row_then_column() -> None:
    made = PatchTokenizer(Patches(patch=2))
    images = torch.rand(1, 3, 4, 6, generator=keyed_generator("patches"))
    tokens = made.tokens(made.encode(images))  # 2 rows of 3
    assert tokens.shape == (1, 6, 12)
    wanted = [
        images[0, channel, 2 + row, 4 + column] * 2 - 1
        for channel in range(3)
        for row in range(2)
        for column in range(2)
    ]
    assert tokens[0, 5].tolist() == torch.stack(wanted).tolist(), "the last token, row-major"


def test_every_byte_comes_back() -> None:
    made = load_tokenizer("patches-4-grey")
    assert isinstance(made, Tokenizer)
    assert (made.stride, made.space, made.moment_channels, made.scale) == (
        4, ("channels", 16), 16, 1.0
    )  # fmt: skip
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = pixels.float() / 255
    moments = made.encode(images)
    assert moments.shape == (1, 16, 4, 4)
    again = made.decode(made.tokens(moments))
    assert torch.equal((again * 255).round().to(torch.uint8), pixels)
    assert torch.equal(made.reconstruct(images), again)
    assert made.encode(torch.tensor([0.0, 1.0]).repeat(1, 1, 4, 2)).unique().tolist() == [-1, 1]


def test_names_lead_to_them_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = load_tokenizer("patches-8-rgb")
    assert made.config == Patches(patch=8, image_channels=3)
    assert made.identity != load_tokenizer("patches-8-grey").identity
    for name in ("patches-0-rgb", "patches-8-red"):
        with pytest.raises(
            InputError, match=r"patch=0 must be at least|nothing is saved.*patches-8"
        ):
            load_tokenizer(name)
    with pytest.raises(InputError, match="image_channels=2: wanted is 1 or 3"):
        Patches(patch=2, image_channels=2)


def test_bad_input_is_named() -> None:
    made = load_tokenizer("patches-4-rgb")
    with pytest.raises(InputError, match="images have 1 channels, this tokenizer takes 3; convert"):
        made.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match="image height 6 does not divide by 4"):
        made.encode(torch.zeros(1, 3, 6, 8))
    with pytest.raises(InputError, match=r"image values span \[0, 255\], wanted is \[0, 1\]"):
        made.encode(torch.tensor([0.0, 255.0]).repeat(1, 3, 4, 2))
    with pytest.raises(InputError, match=r"\(1, 96, 2, 2\) are not \(B, 48, h, w\)"):
        made.tokens(torch.zeros(1, 96, 2, 2))
    with pytest.raises(InputError, match=r"\(1, 4, 16\) are not \(B, L, 48\)"):
        made.decode(torch.zeros(1, 4, 16))
    with pytest.raises(InputError, match="5 tokens form no square"):
        made.decode(torch.zeros(1, 5, 48))
