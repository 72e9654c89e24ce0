"""Probe, fine-tuning and features through the command line, at toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_mage import save_toy, toy_generator, write_labelled
from toy_system import toy_pipeline, toy_tokenizer

from unmask.cli import main
from unmask.tokenizers.folder import save_tokenizer

COURSE = ["--batch-size", 16, "--epochs", 1, "--warmup-epochs", 0, "--crop", "none"]


def run(*words: object) -> int:
    return main(list(map(str, words)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    write_labelled(root / "images")
    save_toy(root / "tuned")
    save_tokenizer(toy_tokenizer(), root / "vq")
    toy_pipeline().save_pretrained(root / "other")
    toy_generator().save_pretrained(root / "mage")
    return root


def test_probe_and_fine_tune(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", place / "images", *COURSE]
    assert run("probe", place / "mage", *data, "--out", place / "p") == 0
    assert "accuracy" in capsys.readouterr().out.splitlines()[-1]
    tune = ["finetune", place / "p" / "last", *data]
    assert run(*tune, "--out", place / "f", "--mixing.group", 8) == 0
    assert run("finetune", place / "f" / "best", "--data", place / "images", "--crop", "none") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-4:-1] == ["class\timages\taccuracy", *told[-3:-1]]
    assert [line.split("\t")[:2] for line in told[-3:-1]] == [["dark", "12"], ["light", "12"]]


def test_training_from_a_cache(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["cache", "build", "--tokenizer", place / "vq", "--data", place / "images"]
    assert run(*build, "--image-size", 16, "--out", place / "cache") == 0
    data = ["--data", place / "images", "--cache", place / "cache", *COURSE]
    assert run("probe", place / "tuned", *data, "--out", place / "pc") == 0
    constant = [*data, "--no-embedding-dropout", "--out", place / "pd"]
    assert run("probe", place / "tuned", *constant) == 0
    tune = ["finetune", place / "tuned", *data, "--out", place / "fc"]
    assert run(*tune) == 2
    assert "mixed before they are tokenised" in capsys.readouterr().err
    assert run(*tune, "--mixing.mixup", 0, "--mixing.cutmix", 0) == 0


def test_features_of_every_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "images" / "train" / "dark" / "999.png").write_text("no image")
    words = [
        "features",
        place / "mage",
        "--pool",
        "class",
        "--data",
        place / "images",
        "--crop",
        "none",
    ]
    assert run(*words, "--out", place / "features.npy", "--neighbours", 5) == 0
    assert "nearest-neighbour accuracy 1.0000 (k = 5)" in capsys.readouterr().out
    features = np.load(place / "features.npy", mmap_mode="r")
    labels = np.load(place / "features.labels.npy")
    assert features.shape == (49, 24)
    assert np.isnan(features).all(1).tolist() == (labels < 0).tolist()
    assert sorted(labels) == [-1, *[0] * 24, *[1] * 24]
    assert np.load(place / "features.val.npy").shape == (24, 24)
    assert run(*words, "--out", place / "features") == 2
    assert "must end in .npy" in capsys.readouterr().err


def test_another_system_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", place / "images", *COURSE]
    assert run("probe", place / "other", *data, "--out", place / "no") == 2
    assert "which is no MAGE" in capsys.readouterr().err
    assert not (place / "no").exists()
