"""Every family goes to disk and comes back the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_tokenizers import make

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer, ConvVQ, ConvVQTokenizer
from unmask.tokenizers.folder import FAMILIES, load_tokenizer, save_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.patches import Patches, PatchTokenizer
from unmask.tokenizers.published import load_published
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer


def toys(fixtures: Path, folder: Path) -> dict[str, ImageTokenizer]:
    """One of each family, but for DC-AE, which wants a package (test_dc_ae.py has it)."""
    small: tuple[ImageTokenizer, ...] = (
        ConvVQTokenizer(ConvVQ(widths=(8, 8), blocks=(0, 0), codes=8, code_dim=4)),
        ConvKLTokenizer(ConvKL(widths=(8, 8), blocks=(0, 0), channels=3, scale=0.7)),
        KLVAETokenizer(KLVAE(stem=4, widths=(4, 8), attention=(), channels=2, groups=4)),
        PatchTokenizer(Patches(patch=2)),
    )
    paths = [make(fixtures, folder, name).path for name in ("titok", "llamagen")]
    return {made.family: made for made in (*small, *map(load_published, paths))}


def test_every_family_comes_back_the_same(fixtures: Path, tmp_path: Path) -> None:
    made = toys(fixtures, tmp_path)
    assert made.keys() == FAMILIES.keys() - {"dc_ae"}
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


def test_names_are_told_from_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^kl16 is not here: download https://www\.dropbox"):
        load_tokenizer("kl16")
    with pytest.raises(InputError, match=r"nothing is saved at 'kl'.*; published: .*kl16, dc-ae"):
        load_tokenizer("kl")


class Bomb:
    """Pickles as the wish to make a folder."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.at),)


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "a.pt"])
def test_a_pickle_that_runs_code_is_refused(name: str, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"quant_conv.weight": torch.ones(1), "x": Bomb(tmp_path / "ran")}},
        tmp_path / name,
    )
    with pytest.raises(InputError, match=f"{name} cannot be read as plain weights"):
        load_tokenizer(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_loaded_weights_have_channels_last_and_the_same_outcome(
    fixtures: Path, tmp_path: Path
) -> None:
    for tokenizer in toys(fixtures, tmp_path).values():
        save_tokenizer(tokenizer, tmp_path / tokenizer.family)
        fast = load_tokenizer(tmp_path / tokenizer.family)
        assert all(
            p.is_contiguous(memory_format=torch.channels_last)
            for p in fast.parameters()
            if p.ndim == 4
        )
        seen: list[torch.Tensor] = []
        fast.encoder.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.extend(inputs))
        images = torch.rand(2, fast.image_channels, 16, 16, generator=keyed_generator("pictures"))
        made = fast.reconstruct(images)
        assert seen[0].is_contiguous(memory_format=torch.channels_last)
        plain = tokenizer.eval().to(memory_format=torch.contiguous_format)
        torch.testing.assert_close(made, plain.reconstruct(images), rtol=1e-5, atol=1e-6)
