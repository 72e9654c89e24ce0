"""``unmask cache`` from images, and from another project's files, to what it says of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from forks import forked, status
from gloo import joined
from PIL import Image
from tiny_data import contents

from unmask.cli import main
from unmask.commands.cache import Convert
from unmask.data import write_cache
from unmask.data.cache import LatentCache, verify
from unmask.data.foreign_cache import FORMATS
from unmask.data.idx import read_idx
from unmask.data.source import EMBEDDED
from unmask.draws import keyed_generator


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a few images of two classes."""
    pixels = read_idx(EMBEDDED["fashion-mnist"] / "train-images-idx3-ubyte.gz")[:20]
    for row, image in enumerate(pixels):
        folder = tmp_path / "images" / ("even", "odd")[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{row}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(words: str, capsys: pytest.CaptureFixture, status: int = 0) -> str:
    assert main(words.split()) == status
    out, err = capsys.readouterr()
    return err if status else out


def build(capsys: pytest.CaptureFixture, more: str = "") -> str:
    words = "cache build --tokenizer patches-4-grey --data images --out cache --device cpu"
    return said(f"{words} --image-size 28 {more}", capsys)


def test_a_cache_of_moments_and_what_it_says(place: Path, capsys: pytest.CaptureFixture) -> None:
    report = build(capsys, "--precision float16")
    count = len(LatentCache.open("cache"))
    assert f"{count} images in 1 shards (0 kept), 0 skipped" in report
    told = said("cache info cache", capsys)
    size = (place / "cache" / "moments-00000.npy").stat().st_size
    assert f"kind        moments, float16, {size:,} bytes" in told
    assert "tokens      49 (7 x 7) of 16 numbers, scale 1, from latents" in told
    assert "classes     even, odd" in told
    assert said("cache verify cache", capsys) == "all shards are whole\n"


def test_a_flipped_bit_is_one_line(place: Path, capsys: pytest.CaptureFixture) -> None:
    build(capsys, "--shard-size 4")
    file = place / "cache" / "moments-00001.npy"
    content = bytearray(file.read_bytes())
    content[1000] ^= 8
    file.write_bytes(content)
    message = said("cache verify cache", capsys, status=2)
    assert (
        "cache has damaged, missing or foreign files: moments-00001.npy; build it again" in message
    )
    shards = len(LatentCache.open("cache", check="never").index.shards)
    file.unlink()
    message = said("cache info cache", capsys, status=2)
    assert "moments-00001.npy has 0 bytes, not" in message
    assert f"({shards - 1} kept)" in build(capsys, "--shard-size 4")
    assert said("cache verify cache", capsys) == "all shards are whole\n"


def test_every_format_can_be_named() -> None:
    assert get_args(get_args(get_type_hints(Convert, include_extras=True)["format"])[0]) == tuple(
        FORMATS
    )


def test_another_projects_cache(place: Path, capsys: pytest.CaptureFixture) -> None:
    for row in range(4):
        folder = place / "mar" / f"n{row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        moments = torch.randn(2, 32, 16, 16, generator=keyed_generator(row)).numpy()
        np.savez(folder / f"{row}.JPEG.npz", moments=moments[0], moments_flip=moments[1])
    (place / "mar" / "n0" / "9.JPEG.npz").write_bytes(b"PK")
    report = said("cache convert mar --from mar --out cache", capsys)
    assert "4 images in 1 shards (0 kept), 1 skipped" in report
    assert "skipped n0/9.JPEG.npz: " in report
    told = said("cache info cache", capsys)
    assert "256 (16 x 16) of 16 numbers, scale 0.2325, from mean and log variance" in told
    assert "tokenizer   unknown (converted from mar)" in told
    message = said("cache convert mar --from mra --out d", capsys, status=2)
    assert "emigm-512" in message


def test_the_image_size_is_that_of_the_tokenizer(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    words = "cache build --tokenizer fashion-vq --data images --device cpu --no-flip"
    told = said(f"{words} --out c", capsys)
    assert "image size 28x28, at which the tokenizer was trained" in told
    assert LatentCache.open("c").plan.image_size == 28
    told = said(f"{words} --out d --image-size 32", capsys)
    assert "image size 32x32; the tokenizer was trained at 28x28" in told
    words = words.replace("fashion-vq", "patches-16-grey")
    told = said(f"{words} --out e", capsys)
    assert "image size 256x256, as nothing tells another" in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_told_to_end_keeps_its_shards(
    place: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fitting = write_cache._fitting
    words = "cache build --tokenizer patches-4-grey --data images --out cache --shard-size 2"

    def _build() -> None:
        sys.stdout = sys.stderr = open("said", "w", buffering=1)  # noqa: SIM115 the child ends
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(
            write_cache, "_fitting", lambda *given: time.sleep(0.2) or fitting(*given)
        )
        os._exit(main(f"{words} --image-size 28 --device cpu".split()))

    child = forked(_build)
    while not Path("cache/moments-00001.json").exists():
        time.sleep(0.01)
    os.kill(child, number)
    assert status(child) == 128 + number
    said = Path("said").read_text()
    assert "finished files are kept" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(Path("cache").glob(".*.partial"))
    shards = len(list(Path("cache").glob("moments-*.json")))
    monkeypatch.setattr(write_cache, "_fitting", fitting)
    assert f"({shards} kept)" in build(capsys, "--shard-size 2")
    assert verify("cache") == []


def test_processes_build_together_and_one_speaks(place: Path, capfd: pytest.CaptureFixture) -> None:
    words = "cache build --tokenizer patches-4-grey --data images --device cpu --image-size 28"

    def body(rank: int) -> None:
        assert main([*words.split(), "--out", "many", "--shard-size", "7"]) == 0

    assert joined(4, body) == [0] * 4
    out, err = capfd.readouterr()
    assert out.count(" shards (0 kept), 0 skipped") == 1
    assert out.count("so 3 of 4 processes encode") == 1
    assert err.count("next: unmask train") == 1
    assert main([*words.split(), "--out", "one", "--shard-size", "7"]) == 0
    assert contents(place / "many") == contents(place / "one")
