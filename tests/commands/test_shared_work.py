"""Commands under a launcher: many processes do what one does, say it once, go on after kills."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from gloo import joined
from test_tokenizer_eval import Means
from tiny_data import contents
from torch import Tensor
from toy_mage import save_toy, toy_generator, write_labelled
from toy_system import toy_tokenizer

from unmask.cli import main
from unmask.probe import extract
from unmask.tokenizers.folder import save_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    write_labelled(root / "images")
    for name in ("005.png", "011.png"):
        (root / "images" / "val" / "dark" / name).write_text("no image")
    save_toy(root / "tuned")
    save_tokenizer(toy_tokenizer(), root / "vq")
    toy_generator().save_pretrained(root / "mage")
    return root


def launch(count: int, *words: object, patience: float | None = None) -> list[int]:
    """How the processes of a launch of a command ended; a refusal counts as 1."""

    def body(rank: int) -> None:
        assert main(list(map(str, words))) == 0

    return joined(count, body, patience=patience)


@pytest.mark.parametrize("latents", ["vq", "patches-4-rgb"])
def test_tokenizers_are_compared(
    place: Path,
    latents: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unmask.evaluate.tokenizer_comparison.EfficientNetLite0", Means)
    words = ["tokenizer", "eval", place / latents if latents == "vq" else latents, "--count", 21]
    words += ["--data", place / "images", "--image-size", 16, "--batch-size", 4, "--device", "cpu"]
    found = {}
    for count in (1, 2, 4):
        assert launch(count, *words, "--out", tmp_path / str(count)) == [0] * count
        assert capfd.readouterr().out.count("PSNR, SSIM and LPIPS: means over images") == 1
        told = json.loads((tmp_path / str(count) / "scores.json").read_text())
        for row in told["rows"]:
            assert row["scores"].pop("encode/s") > 0
            assert row["scores"].pop("decode/s") > 0
        found[count] = told, (tmp_path / str(count) / "pictures.png").read_bytes()
    assert found[1][0] == found[2][0] == found[4][0]
    assert any(note.startswith("21 images of") for note in found[1][0]["notes"])
    if latents == "vq":  # the others' title has their speed in it
        assert found[1][1] == found[2][1]


def test_a_tokenizer_is_trained(place: Path, tmp_path: Path) -> None:
    """Dead codes among it, however processes and micro-batches cut the batch."""
    words = ["tokenizer", "train", "fashion-vq", "--data", place / "images", "--image-size", 16]
    words += ["--training.steps", 5, "--training.batch-size", 16, "--training.tracker", "none"]
    words += ["--training.log-every", 1, "--training.preview-images", 0]
    words += ["--loss.revive-every", 2, "--loss.patience", 2]
    found = []
    for count, parts in ((1, 1), (2, 2)):
        out = tmp_path / str(count)
        more = ["--training.accumulate", parts, "--out", out]
        assert launch(count, *words, *more) == [0] * count
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        found.append([line["loss"] for line in lines if "loss" in line])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def features_of(place: Path, out: Path, *more: object) -> list[object]:
    words = ["features", place / "mage", "--data", place / "images", "--crop", "none"]
    return [*words, "--batch-size", 5, "--out", out / "f.npy", *more]


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.npy")}


@pytest.mark.parametrize("kept", [False, True])
def test_features_are_shared(
    place: Path,
    tmp_path: Path,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(extract, "PART", 10)
    for count in (1, 2, 4):
        out = tmp_path / str(count)
        more = ["--work", out / "work"] if kept else []
        assert launch(count, *features_of(place, out, *more)) == [0] * count
        assert capfd.readouterr().out.count("nearest-neighbour accuracy") == 1
    assert len(written(tmp_path / "1")) == 4
    assert written(tmp_path / "1") == written(tmp_path / "2") == written(tmp_path / "4")
    assert np.isnan(np.load(tmp_path / "1" / "f.val.npy")).all(1).sum() == 2


def test_features_go_on_after_a_kill(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "PART", 10)
    read: list[int] = []
    usual = extract.to_float

    def counted(images: Tensor) -> Tensor:
        read.append(len(images))
        if sum(read) > 25 and os.environ.get("RANK") == "1" and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(9)
        return usual(images)

    monkeypatch.setattr(extract, "to_float", counted)
    words = features_of(place, tmp_path, "--work", tmp_path / "work")
    assert launch(2, *words) == [1, 9]
    parts = len(list((tmp_path / "work").glob("*.safetensors")))
    assert parts >= 2
    assert launch(2, *words) == [0, 0]
    assert main(list(map(str, features_of(place, tmp_path / "one")))) == 0
    assert written(tmp_path) == written(tmp_path / "one")
    assert sum(read) == 48 + 24  # in this process, that of the last words
    assert main(list(map(str, [*words, "--crop", "inner"]))) == 2


def test_foreign_caches_are_converted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for row in range(5):
        codes = np.full((2, 16), row)
        np.savez(tmp_path / f"{row}.npz", idx=codes[0], idx_flip=codes[1], y=row % 2)
    words = ["cache", "convert", tmp_path, "--from", "maskgit-pytorch", "--out"]
    for count in (1, 2):
        assert launch(count, *words, tmp_path / f"out{count}") == [0] * count
        assert capfd.readouterr().out.count("5 images in 1 shards") == 1
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_a_classifier_is_judged(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", place / "tuned", "--data", place / "images", "--crop", "none"]
    told = []
    for count in (1, 2, 4):
        assert launch(count, *words) == [0] * count
        told.append(capfd.readouterr().out)
    assert told[0] == told[1] == told[2]
    assert told[0].count("among five") == 1


@pytest.mark.slow
def test_a_probe_learns_from_features_of_all(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build = ["cache", "build", "--tokenizer", place / "vq", "--data", place / "images"]
    assert launch(2, *build, "--image-size", 16, "--out", tmp_path / "cache") == [0, 0]
    words = ["probe", place / "tuned", "--data", place / "images", "--cache", tmp_path / "cache"]
    words += ["--batch-size", 16, "--epochs", 1, "--warmup-epochs", 0, "--crop", "none"]
    lines = []
    for count in (1, 2):
        out = tmp_path / f"probe{count}"
        assert launch(count, *words, "--no-embedding-dropout", "--out", out) == [0] * count
        lines.append((out / "accuracy.jsonl").read_text())
        assert capfd.readouterr().out.count("at the end") == 1
    assert lines[0] == lines[1]
