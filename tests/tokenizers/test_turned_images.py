"""Tokenizers of images that are not square: a turned network makes the turned tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.conv_stack import ConvKL, ConvVQ
from unmask.tokenizers.dc_ae import DCAE
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer
from unmask.tokenizers.patches import Patches
from unmask.tokenizers.tokenizer import noise_shape
from unmask.tokenizers.vqgan import KLVAE, VQGAN, MaskGITVQGAN

FAMILIES: dict[str, ImageConfig] = {
    "conv_vq": ConvVQ(widths=(8, 8, 16), blocks=(0, 1, 1), codes=16, code_dim=4),
    "conv_kl": ConvKL(widths=(8, 8, 16), blocks=(0, 1, 1), channels=5),
    "maskgit_vqgan": MaskGITVQGAN(
        stem=32, widths=(32, 32, 32), blocks=1, middle=1, codes=16, code_dim=4
    ),
    "vqgan": VQGAN(
        stem=8, widths=(8, 16, 16), blocks=1, attention=(2,), latent_channels=8, groups=4, codes=16,
        code_dim=4,
    ),
    "kl_vae": KLVAE(stem=8, widths=(8, 8, 16), blocks=1, attention=(2,), channels=3, groups=4),
    "dc_ae": DCAE(
        widths=(8, 8, 16), encoder_blocks=(0, 1, 1), decoder_blocks=(0, 1, 1), attention=(2,),
        head_dim=8, channels=4,
    ),
    "patches": Patches(patch=4),
}  # fmt: skip
TURNABLE = [name for name in FAMILIES if name not in ("dc_ae", "patches")]  # these shuffle pixels


def made(name: str) -> ImageTokenizer:
    if name == "dc_ae":
        pytest.importorskip("diffusers", reason="DC-AE is built by diffusers")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return FAMILIES[name].build().eval().requires_grad_(False)


def tokens(tokenizer: ImageTokenizer, images: Tensor, noise: Tensor) -> Tensor:
    return tokenizer.tokens(tokenizer.encode(images), noise)


def inputs(tokenizer: ImageTokenizer, height: int, width: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 3, height, width, generator=keyed_generator("images", height, width))
    return images, torch.randn(2, *noise_shape(tokenizer, (height // 4, width // 4)))


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (4, 28), (28, 4), (4, 4)])
@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_at_every_shape(name: str, size: tuple[int, int]) -> None:
    tokenizer = made(name)
    images, noise = inputs(tokenizer, *size)
    grid = tokenizer.grid(size)
    assert grid == (size[0] // 4, size[1] // 4)
    found = tokens(tokenizer, images, noise)
    assert found.shape[:2] == (2, grid[0] * grid[1])
    again = tokenizer.decode(found, grid)
    assert again.shape == images.shape
    assert tokenizer.reconstruct(images).shape == images.shape
    alone = tokens(tokenizer, images[1:], noise[1:])
    torch.testing.assert_close(alone, found[1:], atol=1e-5, rtol=1e-5)
    if name == "patches":
        torch.testing.assert_close(again, images)


@pytest.mark.parametrize("name", TURNABLE)
def test_turned_weights_turn_the_tokens_and_the_images(name: str) -> None:
    straight, turned = made(name), made(name)
    for parameter in turned.parameters():
        if parameter.ndim == 4:
            parameter.copy_(parameter.mT.clone())
    images, noise = inputs(straight, 12, 20)
    wanted = tokens(straight, images, noise).unflatten(1, (3, 5)).transpose(1, 2).flatten(1, 2)
    found = tokens(turned, images.mT.contiguous(), noise.mT.contiguous())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    pictures = turned.decode(found, (5, 3))
    again = straight.decode(tokens(straight, images, noise), (3, 5))
    torch.testing.assert_close(pictures, again.mT, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("size", "near"), [((12, 22), "12 24"), ((3, 8), "4 8"), ((9, 9), "8"), ((6, 0), "8 4")]
)
def test_a_side_off_the_stride_comes_with_sides_that_work(
    name: str, size: tuple[int, int], near: str
) -> None:
    tokenizer = made(name)
    with pytest.raises(InputError, match=rf"does not divide by .* 4; .* for example {near}$"):
        tokenizer.grid(size)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_without_a_grid_must_form_a_square(name: str) -> None:
    tokenizer = made(name)
    images, noise = inputs(tokenizer, 12, 20)
    found = tokens(tokenizer, images, noise)
    with pytest.raises(InputError, match=r"15 tokens form no square; pass grid=\(rows, columns\)"):
        tokenizer.decode(found)
    with pytest.raises(InputError, match="grid 3x4 holds 12 tokens"):
        tokenizer.decode(found, (3, 4))
