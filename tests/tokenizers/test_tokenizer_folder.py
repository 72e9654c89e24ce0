"""Every family goes to disk and comes back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_tokenizers import make

from unmask.errors import InputError
from unmask.tokenizers.conv_vq import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.folder import (
    FAMILIES,
    load_latent_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from unmask.tokenizers.kl_vae import KLVAE, KLVAETokenizer
from unmask.tokenizers.published import load_published
from unmask.tokenizers.vq_tokenizer import VQTokenizer


def toys(fixtures: Path, folder: Path) -> dict[str, VQTokenizer]:
    """One of each family."""
    small = ConvVQTokenizer(ConvVQ(widths=(8, 8), blocks=(0, 0), codes=8, code_dim=4))
    paths = [make(fixtures, folder, name).path for name in ("titok", "llamagen")]
    return {made.family: made for made in (small, *map(load_published, paths))}


def test_every_family_comes_back_the_same(fixtures: Path, tmp_path: Path) -> None:
    made = toys(fixtures, tmp_path)
    assert made.keys() == FAMILIES.keys()
    for family, tokenizer in made.items():
        save_tokenizer(tokenizer, tmp_path / family)
        again = load_tokenizer(tmp_path / family)
        assert type(again) is type(tokenizer)
        assert again.config == tokenizer.config
        assert again.identity == tokenizer.identity
        assert not again.training


def test_half_precision_comes_back_near(fixtures: Path, tmp_path: Path) -> None:
    toy = make(fixtures, tmp_path, "amused")
    save_tokenizer(load_published(toy.path), tmp_path / "half", half=True)
    made = load_tokenizer(tmp_path / "half").decode(toy.ids)
    torch.testing.assert_close(made, toy.decoded, atol=5e-3, rtol=0)


def test_published_files_and_names_are_taken_as_they_are(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make(fixtures, tmp_path, "titok")
    wanted = load_published(toy.path)
    assert load_tokenizer(toy.path).identity == wanted.identity
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"download https://drive\.google"):
        load_tokenizer("mage-vqgan")
    save_tokenizer(wanted, tmp_path / "mage-vqgan")
    assert load_tokenizer("mage-vqgan").identity == wanted.identity, "what is saved here goes first"


def rewrite(folder: Path, **changes: object) -> None:
    """Change the config inside the weights; None removes a key."""
    path = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    save_file(load_file(path), path, metadata={"config": json.dumps(kept)})


def test_a_folder_without_a_family_is_of_the_first(tmp_path: Path) -> None:
    small = ConvVQTokenizer(ConvVQ(widths=(8, 8), blocks=(0, 0), codes=8, code_dim=4))
    save_tokenizer(small, tmp_path)
    rewrite(tmp_path, family=None)
    assert load_tokenizer(tmp_path).identity == small.identity
    rewrite(tmp_path, family="vqgam")
    with pytest.raises(InputError, match="unknown family 'vqgam'; did you mean 'vqgan'"):
        load_tokenizer(tmp_path)
    rewrite(tmp_path, format="unmask-model")
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_latents_come_back_the_same_and_are_not_taken_for_codes(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = KLVAETokenizer(KLVAE(stem=4, widths=(4, 8), attention=(), channels=2, groups=4))
    save_tokenizer(made, tmp_path / "kl")
    again = load_latent_tokenizer(tmp_path / "kl")
    assert (again.config, again.identity, again.training) == (made.config, made.identity, False)
    with pytest.raises(InputError, match="kl makes latents, which do not fit here; published: mas"):
        load_tokenizer(tmp_path / "kl")
    save_tokenizer(load_published(make(fixtures, tmp_path, "titok").path), tmp_path / "vq")
    with pytest.raises(
        InputError, match=r"vq makes codes, which do not fit here; published: kl16$"
    ):
        load_latent_tokenizer(tmp_path / "vq")
    monkeypatch.chdir(tmp_path / "vq")
    with pytest.raises(InputError, match=r"^kl16 makes latents, wanted is a tokenizer of codes"):
        load_tokenizer("kl16")
    with pytest.raises(InputError, match=r"^mage-vqgan makes codes, wanted is a tokenizer of lat"):
        load_latent_tokenizer("mage-vqgan")
    with pytest.raises(InputError, match=r"^kl16 is not here: download https://www\.dropbox"):
        load_latent_tokenizer("kl16")
    with pytest.raises(InputError, match=r"nothing is saved at 'kl'.*; published: kl16$"):
        load_latent_tokenizer("kl")
