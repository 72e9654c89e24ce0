"""``unmask tokenizer eval`` from words to files, at toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_system import toy_tokenizer, write_images

from unmask.cli import main
from unmask.evaluate.features import Features
from unmask.evaluate.lpips import LPIPS
from unmask.tokenizers.folder import save_tokenizer


def write_lpips(folder: Path) -> tuple[Path, Path]:
    state = LPIPS().state_dict()
    alexnet = {key: value for key, value in state.items() if key.startswith("features.")}
    linear = {f"lin{k}.model.1.weight": state[f"linear.{k}"] for k in range(5)}
    torch.save(alexnet, folder / "alexnet.pth")
    torch.save(linear, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def test_two_tokenizers_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = write_images(tmp_path / "images" / "val", 12)
    write_images(tmp_path / "images" / "train", 2)
    (images / "left" / "text.png").write_text("not an image")
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    words = ["tokenizer", "eval", tmp_path / "vq", "patches-4-rgb", "--data", tmp_path / "images"]
    words += ["--image-size", 32, "--device", "cpu", "--out", tmp_path / "out"]
    assert main(list(map(str, [*words, "--lpips", *write_lpips(tmp_path)]))) == 0
    told = capsys.readouterr().out
    for title in ("PSNR", "SSIM", "LPIPS", "FD", "perplexity", "latent std"):
        assert title in told
    assert "rFID" not in told
    assert "1 unreadable images left out: val/left/text.png" in told
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    vq, patches = (row["scores"] for row in found["rows"])
    assert [row["tokens"] for row in found["rows"]] == ["8x8 of 16 codes", "8x8 of 48 channels"]
    assert vq["LPIPS"] > patches["LPIPS"] == pytest.approx(0, abs=1e-6)
    assert vq["FD"] > patches["FD"] == pytest.approx(0, abs=1e-3)
    assert vq["PSNR"] < 40 < patches["PSNR"]
    assert any(note.startswith("12 images of") for note in found["notes"])
    assert (tmp_path / "out" / "table.md").read_text().count("\n| ") == 3
    with Image.open(tmp_path / "out" / "pictures.png") as picture:
        assert picture.height > 3 * 32


class Means:
    """A feature network of one number an image and channel."""

    name, identity, width, classes = "means", "means of channels", 3, 1

    def __init__(self, *, device: torch.device) -> None:
        self.device = device

    def __call__(self, images: Tensor) -> Features:
        return Features(images.float().mean((2, 3)), torch.ones(len(images), 1))


def test_the_other_side_and_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("unmask.evaluate.tokenizer_comparison.EfficientNetLite0", Means)
    write_images(tmp_path / "images" / "val", 2)
    write_images(tmp_path / "images" / "train", 6)
    words = ["patches-4-rgb", "--data", str(tmp_path / "images"), "--image-size", "16"]
    assert main(["tokenizer", "eval", *words, "--split", "train", "--latents", "mean"]) == 0
    told = capsys.readouterr().out
    assert "6 images of images (train)" in told
    assert "latents are the mean" in told


def test_help_tells_both_halves(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["tokenizer", "--help"])
    told = capsys.readouterr().out
    assert "unmask tokenizer train RECIPE" in told
    assert "unmask tokenizer eval NAME" in told
    with pytest.raises(SystemExit):
        main(["tokenizer", "eval", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(word in told for word in ("--lpips", "--inception", "no download", "pictures.png"))
