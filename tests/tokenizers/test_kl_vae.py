"""KL-16 at toy size: the contract, its place in files of other projects, and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.checkpoints.names import to_source
from unmask.draws import Draws, keyed_generator
from unmask.errors import InputError
from unmask.tokenizers import published as published_latents
from unmask.tokenizers.latent_tokenizer import to_tokens
from unmask.tokenizers.names import LAYOUTS, table_of
from unmask.tokenizers.published import PUBLISHED, load_published
from unmask.tokenizers.tokenizer import Tokenizer
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer

TOY = KLVAE(stem=8, widths=(8, 8, 16), blocks=1, attention=(2,), channels=3, groups=4)
FILE = KLVAE(stem=32, widths=(32, 64), blocks=1, attention=(1,), channels=2)


def random_tokenizer(config: KLVAE) -> KLVAETokenizer:
    """Random weights, the same at every call."""
    made = KLVAETokenizer(config).eval().requires_grad_(False)
    generator = keyed_generator(5, "weights")
    for parameter in made.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made


def pictures(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=keyed_generator(6, "images"))


def write_file(folder: Path, config: KLVAE = FILE, **more: Tensor) -> tuple[Path, KLVAETokenizer]:
    """A file as MAR publishes it, and what lies in it."""
    made = random_tokenizer(config)
    table = table_of(LAYOUTS["kl16"], len(config.widths))
    path = folder / "kl16.ckpt"
    torch.save({"model": {**to_source(made.state_dict(), table), **more}}, path)
    return path, made


def test_it_keeps_the_protocol() -> None:
    made = random_tokenizer(TOY)
    assert isinstance(made, Tokenizer)
    assert (made.stride, made.channels, made.grid(16)) == (4, 3, (4, 4))
    images, draws = pictures(16, 24), Draws([7, 8])
    noise = draws.normal("posterior", 0, 3, 4, 6)
    latents = made.tokens(made.encode(images), noise)
    assert latents.shape == (2, 24, 3)
    assert torch.equal(latents, made.tokens(made.encode(images), noise)), (
        "the noise is all that is random"
    )
    again = made.decode(latents, (4, 6))
    assert again.shape == images.shape
    assert again.dtype == torch.float32
    assert 0 <= again.min() <= again.max() <= 1


def test_the_scale_multiplies_latents_and_is_taken_back() -> None:
    made = random_tokenizer(TOY)
    wide = random_tokenizer(replace(TOY, scale=10 * TOY.scale))
    images, noise = pictures(16, 16), torch.zeros(2, 3, 4, 4)
    latents = made.tokens(made.encode(images), noise)
    torch.testing.assert_close(latents, to_tokens(made.encode(images)[:, :3]) * 0.2325)
    torch.testing.assert_close(wide.tokens(wide.encode(images), noise), latents * 10)
    torch.testing.assert_close(wide.decode(latents * 10), made.decode(latents))
    assert torch.equal(wide.encode(images), made.encode(images)), "moments are not scaled"


def test_the_network_sees_signed_images() -> None:
    made = random_tokenizer(TOY)
    seen: list[Tensor] = []
    made.encoder.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    made.encode(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    assert seen[0][0, :, 0, 0].tolist() == [-1.0, 0.0, 1.0]


def test_every_weight_takes_part() -> None:
    made = random_tokenizer(TOY).requires_grad_(True)
    moments = made.infer(pictures(8, 8))
    (moments.square().sum() + made.render(moments[:, :3]).square().sum()).backward()
    # the keys' bias moves all scores of a softmax equally
    still = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in still if not name.endswith(".k.bias")] == []


def test_the_identity_tells_weights_and_scale() -> None:
    made, same = random_tokenizer(TOY), random_tokenizer(TOY)
    assert made.identity == same.identity
    assert made.identity != random_tokenizer(replace(TOY, scale=0.5)).identity
    same.decoder.conv_out.bias[0] += 1e-6
    assert made.identity != same.identity


def test_a_file_becomes_a_tokenizer_that_computes_the_same(tmp_path: Path) -> None:
    path, made = write_file(tmp_path, **{"loss.logvar": torch.zeros(1)})
    loaded = load_published(path)
    assert loaded.config == FILE
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    images, noise = pictures(8, 8), torch.ones(2, 2, 4, 4)
    latents = made.tokens(made.encode(images), noise)
    assert torch.equal(loaded.tokens(loaded.encode(images), noise), latents)
    assert torch.equal(loaded.decode(latents), made.decode(latents))
    assert load_published(path, scale=0.18215).scale == 0.18215, "Stable Diffusion's"


def test_a_name_is_looked_for_here_and_must_have_its_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"kl16 is not here: download https://www\.dropbox\.com/.*put"
    ):
        load_published("kl16")
    _, made = write_file(tmp_path)
    with pytest.raises(InputError, match=r"kl16\.ckpt is not kl16: its network has other sizes"):
        load_published("kl16")
    entry = replace(PUBLISHED["kl16"], network=FILE)
    monkeypatch.setitem(published_latents.PUBLISHED, "kl16", entry)
    assert load_published("kl16").identity == made.identity
    with pytest.raises(
        InputError, match="kl-16 is no file or folder of tokenizer weights; did you mean 'kl16'"
    ):
        load_published("kl-16")


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path, _ = write_file(tmp_path)
    torch.save({**torch.load(path), "hook": write_file}, path)
    with pytest.raises(InputError, match="cannot be read as plain weights"):
        load_published(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (8, 6)}, r"widths \(8, 8, 6\) must be multiples of 4"),
        ({"attention": (3,)}, r"attention=\(3,\) names a level"),
        ({"channels": 0}, "channels=0 must be at least 1"),
        ({"scale": 0.0}, r"scale=0\.0 must be above 0"),
        ({"scale": math.nan}, r"scale=nan must lie in \(0, 10\*\*6\]"),
        ({"scale": math.inf}, "scale=inf must be at most"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TOY, **change)


def test_bad_input_is_named() -> None:
    made = random_tokenizer(TOY)
    with pytest.raises(InputError, match="image width 18 does not divide by 4"):
        made.encode(pictures(16, 18))
    with pytest.raises(InputError, match=r"image values span \[-1, 1\]"):
        made.encode(
            torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 4, 2).repeat(1, 1, 1, 2)
        )
    with pytest.raises(InputError, match=r"\(1, 4, 2, 2\) are not \(B, 6, h, w\).* that made them"):
        made.tokens(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, 2))
    with pytest.raises(InputError, match=r"noise of shape \(2, 4, 4\)"):
        made.tokens(made.encode(pictures(16, 16)), torch.zeros(2, 4, 4))
    with pytest.raises(InputError, match=r"are not \(B, L, 3\)"):
        made.decode(torch.zeros(1, 16, 4))
