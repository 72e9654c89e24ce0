"""``unmask images``: references for evaluators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.cli import main
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate.image_batch import gather
from unmask.evaluate.image_sets import open_image_set


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos of many sizes in a train and a val side, one of them damaged."""
    stream = np.random.default_rng(0)
    for i in range(14):
        file = tmp_path / "data" / ("val" if i < 9 else "train") / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (*stream.integers(20, 60, 2), 3)
        Image.fromarray(stream.integers(0, 256, shape, np.uint8)).save(file)
    file.parent.with_name("a").joinpath("broken.png").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("crop", ["center", "center-bilinear", "whole"])
def test_they_are_cut_as_a_model_sees_them(place: Path, crop: str) -> None:
    words = f"images data --image-size 16 --crop {crop} --out".split()
    assert main([*words, "made.npz"]) == 0
    assert main([*words, "made"]) == 0
    source, cut = open_source("data", split="val"), Transform(size=16, crop=crop)
    wanted = {
        (cut(source.image(row)).numpy().tobytes(), source.label(row)) for row in range(len(source))
    }
    packed, flat = (gather(open_image_set(name)) for name in ("made.npz", "made"))
    assert packed.labels is not None
    rows = zip(packed.images, packed.labels.tolist(), strict=True)
    assert {(image.numpy().tobytes(), label) for image, label in rows} == wanted
    assert torch.equal(flat.images, packed.images)
    assert sorted(p.name for p in Path("made").iterdir()) == [f"{i:06d}.png" for i in range(9)]


def test_a_folder_becomes_a_file_and_unreadable_images_are_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "images data --image-size 8 --channels 1 --split all --out flat"
    assert main(words.split()) == 0
    assert "left out: train/a/broken.png" in capsys.readouterr().out
    again = "images flat --image-size 8 --channels 1 --split all --crop none --out flat.npz"
    assert main(again.split()) == 0
    with np.load("flat.npz") as held:
        assert held["arr_0"].shape == (14, 8, 8, 1)
        assert "arr_1" not in held
    one, other = (gather(open_image_set(name)).images for name in ("flat", "flat.npz"))
    assert sorted(map(bytes, one.numpy())) == sorted(map(bytes, other.numpy()))


def test_a_count_and_mistakes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "images data --image-size 8 --count 3 --out three"
    assert main(words.split()) == 0
    assert len(open_image_set("three")) == 3
    capsys.readouterr()
    for wrong, said in {
        "images data --image-size 8 --out three": "three holds",
        "images nowhere --out new": "nowhere does not exist",
        "images data --image-size 8 --crop none --out new": "crop='none' needs 8 x 8",
        "images data --crop resized --out new": "crop",
    }.items():
        assert main(wrong.split()) == 2
        assert said in capsys.readouterr().err
    assert not Path("new").exists()
