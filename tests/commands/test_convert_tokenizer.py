"""Published tokenizers through the command line, and inside a whole system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_system import NETWORK, TOY, toy_pipeline, write_images
from toy_tokenizers import WRITERS, make

from unmask.checkpoints.names import to_source
from unmask.cli import main
from unmask.data.cache import LatentCache
from unmask.pipeline import Pipeline, load
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.names import LAYOUTS, table_of
from unmask.tokenizers.published import load_published
from unmask.tokenizers.vqgan import KLVAE


@pytest.mark.parametrize("name", WRITERS)
def test_a_tokenizer_becomes_a_folder_that_computes_the_same(
    fixtures: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    toy = make(fixtures, tmp_path, name)
    for _ in range(2):  # the second replaces the first
        assert main(["convert", str(toy.path), str(tmp_path / "out")]) == 0
    assert "48 codes" in capsys.readouterr().out
    made = load_tokenizer(tmp_path / "out")
    assert made.identity == load_published(toy.path).identity
    assert torch.equal(made.encode(toy.images), toy.image_ids)


def test_an_autoencoder_of_latents_becomes_a_folder_too(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    sizes = KLVAE(stem=32, widths=(32, 32), blocks=1, attention=(1,), channels=2)
    state = to_source(sizes.build().state_dict(), table_of(LAYOUTS["kl16"], 2))
    torch.save({"model": state}, tmp_path / "kl16.ckpt")
    assert main(["convert", str(tmp_path / "kl16.ckpt"), str(tmp_path / "out")]) == 0
    assert "2 channels" in capsys.readouterr().out
    made = load_tokenizer(tmp_path / "out")
    assert made.config == sizes
    assert made.identity == load_tokenizer(tmp_path / "kl16.ckpt").identity


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer.bin", "new", "--kind", "unlockmgm"], "is a tokenizer: leave out --kind"),
        (["tokenizer.bin", "new", "--heads", "8"], "is a tokenizer: leave out --heads"),
        (["tokenizer.bin", "full"], "holds 'notes.txt' but no tokenizer of this library"),
        (["tokenizer.bin", "model"], "but no tokenizer of this library"),
        (["mage-vqgan", "new"], "download https://drive.google.com/"),
        (["text", "new"], "neither a PyTorch, safetensors nor flax msgpack file"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(fixtures, tmp_path, "titok").path.rename("tokenizer.bin")
    Path("full").mkdir()
    Path("full/notes.txt").write_text("x")
    Path("text").write_text("\xff words")
    toy_pipeline().save_pretrained("model")
    before = {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")}
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["titok", "taming"])
def test_a_system_carries_any_family(fixtures: Path, tmp_path: Path, name: str) -> None:
    network = replace(NETWORK, codes=48, length=64)
    recipe = replace(TOY, network=network, image_size=32, tokenizer=name)
    tokenizer = load_published(make(fixtures, tmp_path, name).path)
    pipeline = Pipeline(recipe, network.build(), tokenizer, ("cat", "Dog", "7"))
    pipeline.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.tokenizer.identity == tokenizer.identity
    made = again([0, 2], seeds=3)
    assert made.pixels.shape == (2, 3, 32, 32)
    assert torch.equal(made.pixels, pipeline([0, 2], seeds=3).pixels)


def test_a_cache_is_built_from_a_downloaded_file(fixtures: Path, tmp_path: Path) -> None:
    path = make(fixtures, tmp_path, "llamagen").path
    images = write_images(tmp_path / "images", 12)
    words = ["cache", "build", "--tokenizer", path, "--data", images, "--out", tmp_path / "cache"]
    assert main([*map(str, words), "--image-size", "16", "--no-flip", "--device", "cpu"]) == 0
    cache = LatentCache.open(tmp_path / "cache")
    assert cache.length == 16
    assert len(cache) > 0


def test_an_unknown_tokenizer_comes_with_the_published_names(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    words = ["cache", "build", "--tokenizer", "amused-265", "--data", str(tmp_path), "--out", "a"]
    assert main([*words, "--image-size", "16"]) == 2
    write_images(tmp_path, 2)
    assert main([*words, "--image-size", "16"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "nothing is saved at 'amused-265'" in error
    assert "published: maskgit-vqgan-imagenet-f16-256, " in error
