"""The small trained autoencoder: its objective in closed form, its training, its scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.source import open_source
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.recipes.training import Training
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.latent_tokenizer import posterior
from unmask.tokenizers.objective import TokenizerLoss, TokenizerObjective
from unmask.tokenizers.tokenizer import Tokenizer
from unmask.train.tokenizer import train_tokenizer

TINY = ConvKL(image_channels=1, widths=(8, 16), blocks=(0, 1), channels=3)


@pytest.fixture(autouse=True)
def _fixed_initial_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        yield


def batch(count: int = 6) -> tuple[torch.Tensor, None, torch.Tensor]:
    generator = keyed_generator("batch")
    images = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, None, torch.randn(count, 3, 4, 4, generator=generator)


def test_it_keeps_the_protocol() -> None:
    made = ConvKLTokenizer(replace(TINY, scale=0.5))
    assert isinstance(made, Tokenizer)
    assert (made.stride, made.channels, made.moment_channels, made.scale) == (2, 3, 6, 0.5)
    images = batch()[0].float() / 255
    assert made.encode(images).shape == (6, 6, 4, 4)
    assert made.reconstruct(images).shape == images.shape


def test_divergence_agrees_with_torch() -> None:
    told = posterior(torch.randn(2, 6, 4, 4, generator=keyed_generator("moments")))
    gaussian = torch.distributions.Normal(told.mean, told.std)
    wanted = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(told.kl, wanted.sum((1, 2, 3)))


def test_parts_in_closed_form() -> None:
    made = TokenizerObjective(ConvKLTokenizer(TINY), TokenizerLoss(kl=0.5), batch_size=6)
    images, _, noise = batch()
    out = made((images, None, noise))
    assert set(out) == {"loss", "psnr", "l1", "kl"}
    real = images.float() / 255
    told = posterior(made.averaged.infer(real))
    difference = made.averaged.render(told.sample(noise)) - real
    assert out["l1"].item() == pytest.approx(difference.abs().mean().item(), rel=1e-5)
    assert out["kl"].item() == pytest.approx(0.5 * told.kl.sum().item() / images.numel(), rel=1e-5)
    assert out["loss"].item() == pytest.approx(out["l1"].item() + out["kl"].item(), rel=1e-6)
    out["loss"].backward()
    assert all(p.grad is not None for p in made.parameters())
    made.after_step(0, keyed_generator(0))
    assert made.progress == 1


def test_micro_batches_add_up_to_the_step() -> None:
    made = TokenizerObjective(ConvKLTokenizer(TINY), batch_size=6)
    images, _, noise = batch()
    whole = made((images, None, noise))
    parts = [made((images[at], None, noise[at])) for at in (slice(0, 2), slice(2, 6))]
    for name in ("loss", "l1", "kl"):
        total = sum(part[name].item() for part in parts)
        assert total == pytest.approx(whole[name].item(), rel=1e-5)


def stripes(folder: Path) -> Path:
    """Sixty grey images, each of its own two shades."""
    folder.mkdir()
    generator = keyed_generator("stripes")
    for index in range(60):
        shades = torch.randint(256, (2,), dtype=torch.uint8, generator=generator)
        pixels = shades[torch.arange(8) // 4].expand(8, 8)
        Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(folder / f"{index:02d}.png")
    return folder


def recipe(*, steps: int = 60, kl: float = 1e-4, accumulate: int = 1) -> TokenizerRecipe:
    return TokenizerRecipe(
        name="toy",
        summary="for this test",
        image_size=8,
        crop="none",
        flip=False,
        network=TINY,
        loss=TokenizerLoss(kl=kl),
        training=Training(
            steps=steps,
            batch_size=8,
            lr=4e-3,
            accumulate=accumulate,
            save_every=steps // 2,
            ema=None,
            tracker="none",
        ),
    )


def test_training_measures_the_scale_and_depends_on_nothing_but_the_run(tmp_path: Path) -> None:
    source = open_source(stripes(tmp_path / "images"))
    result = train_tokenizer(recipe(), source, out=tmp_path / "a")
    assert result.last_loss < 0.5 * result.first_loss
    made = load_tokenizer(tmp_path / "a")
    assert isinstance(made, ConvKLTokenizer)
    images = torch.stack([torch.from_numpy(np.array(source.image(i))) for i in range(len(source))])
    images = images.view(-1, 1, 8, 8).float() / 255
    noise = torch.randn(len(images), 3, 4, 4, generator=keyed_generator("test"))
    assert made.tokens(made.encode(images), noise).std().item() == pytest.approx(1, abs=0.05)
    assert made.config == replace(TINY, scale=made.scale)
    train_tokenizer(recipe(), source, out=tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").identity == made.identity
    train_tokenizer(recipe(), source, out=tmp_path / "a")  # only exports again
    assert load_tokenizer(tmp_path / "a").identity == made.identity


def test_the_noise_of_a_step_does_not_depend_on_how_it_is_cut(tmp_path: Path) -> None:
    source = open_source(stripes(tmp_path / "images"))
    results = [
        train_tokenizer(recipe(steps=2, accumulate=parts), source, out=tmp_path / str(parts))
        for parts in (1, 4)
    ]
    assert results[1].last_loss == pytest.approx(results[0].last_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"scale": 0.0}, "scale=0.0 must be above 0"),
        ({"widths": (8, 9)}, r"widths=\(8, 9\) must be multiples of 8"),
        ({"image_channels": 2}, "image_channels=2: wanted is 1 or 3"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **change)


def test_bad_input_is_named() -> None:
    made = ConvKLTokenizer(TINY)
    with pytest.raises(
        InputError, match=r"images have 3 channels, this .* takes 1; convert to grey"
    ):
        made.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"are not \(B, 6, h, w\)"):
        made.tokens(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match=r"loss\.kl=-1.0 must be at least 0"):
        TokenizerLoss(kl=-1.0)
