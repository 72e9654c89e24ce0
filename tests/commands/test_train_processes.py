"""``unmask train --data`` under a launcher: all processes encode, then train what one would."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from gloo import joined
from test_train_cache import OLD, WORDS
from tiny_data import contents
from torch import Tensor

from unmask.cli import main
from unmask.data import build_cache

SHARD = 5


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a tokenizer, whose caches have several shards."""
    for name in ("data", "vq"):
        shutil.copytree(OLD / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build_cache, "LEAST_ROWS", SHARD)
    return tmp_path


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def train(count: int, out: str, *, patience: float | None = None, steps: int = 3) -> list[int]:
    words = [*WORDS.split(), "--data", "data", "--out", out, "--training.log-every", "1"]

    def body(rank: int) -> None:
        assert main([*words, "--training.steps", str(steps)]) == 0

    return joined(count, body, patience=patience)


def test_many_encode_and_train_what_one_does(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though one of them takes longer to encode than the default group waits."""
    usual = build_cache.to_float

    def slow(images: Tensor) -> Tensor:
        rank = os.environ["RANK"]
        with Path(f"encoded-{rank}").open("a") as file:
            file.write(f"{len(images)}\n")
        if rank == "1" and Path("slow").exists():
            Path("slow").unlink()
            time.sleep(7)
        return usual(images)

    monkeypatch.setattr(build_cache, "to_float", slow)
    (place / "slow").touch()
    assert train(2, "two", patience=4) == [0, 0]
    said = capfd.readouterr().out
    assert said.count("next: unmask sample two") == 1
    assert said.count("data (train): ") == 1
    for rank in (0, 1):
        assert (place / f"encoded-{rank}").read_text().split()
    assert not (place / "slow").exists()
    assert train(1, "one") == [0]
    assert contents(place / "one-cache") == contents(place / "two-cache")
    assert losses(place / "two") == pytest.approx(losses(place / "one"), abs=1e-5)


@pytest.mark.slow
def test_a_kill_while_encoding_costs_a_shard(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, count = build_cache.to_float, [0]

    def dies(images: Tensor) -> Tensor:
        count[0] += 1
        if os.environ["RANK"] == "0" and count[0] > 1 and not Path("died").exists():
            Path("died").touch()
            os._exit(9)
        return usual(images)

    monkeypatch.setattr(build_cache, "to_float", dies)
    assert train(2, "two") == [9, 1]
    kept = {file: file.stat().st_mtime_ns for file in (place / "two-cache").glob("*.npy")}
    assert kept
    assert train(4, "two", steps=2) == [0] * 4  # as many as there are now
    assert (
        kept.items()
        <= {file: file.stat().st_mtime_ns for file in (place / "two-cache").glob("*.npy")}.items()
    )
    assert train(1, "one", steps=2) == [0]
    assert contents(place / "one-cache") == contents(place / "two-cache")
    assert losses(place / "two") == pytest.approx(losses(place / "one"), abs=1e-5)
