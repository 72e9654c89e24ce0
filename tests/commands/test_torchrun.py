"""Real launchers: torchrun's processes on one machine, and on two that share their folders."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_train_cache import OLD, WORDS
from tiny_data import contents
from toy_mage import toy_generator, write_labelled

from unmask.cli import main
from unmask.data import build_cache

pytestmark = pytest.mark.slow

PATIENT = """
import os, sys, time
from datetime import timedelta
from unmask.machine import processes
processes.PATIENCE = timedelta(seconds=5)
from unmask.data import build_cache
usual = build_cache.to_float
def slow(images):
    if os.environ["RANK"] == "1" and not os.path.exists("slept"):
        open("slept", "w").close()
        time.sleep(20)
    return usual(images)
build_cache.to_float, build_cache.LEAST_ROWS = slow, 5
from unmask.cli import main
sys.exit(main())
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("data", "vq"):
        shutil.copytree(OLD / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launchers(*words: str, processes: int, nodes: int = 1, program: str = "-m unmask.cli") -> str:
    """What the launchers of all nodes said; they all succeed."""
    port = str(free_port())
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nproc-per-node", str(processes), "--nnodes", str(nodes)),
                *("--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", port),
                *(*program.split(), *words),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(nodes)
    ]
    said = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [0] * nodes, "\n".join(said)
    return "\n".join(said)


def test_two_nodes_with_shared_folders_build_and_train(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a node that works for 20 seconds outlives a default group of 5."""
    (place / "launch.py").write_text(PATIENT)
    words = [*WORDS.split(), "--data", "data", "--training.steps", "2"]
    said = launchers(*words, "--out", "two", processes=1, nodes=2, program="launch.py")
    assert said.count("next: unmask sample two") == 1
    assert (place / "slept").exists()
    monkeypatch.setattr(build_cache, "LEAST_ROWS", 5)
    assert main([*words, "--out", "one"]) == 0
    assert contents(place / "two-cache") == contents(place / "one-cache")


def test_a_cache_is_built_by_two(place: Path) -> None:
    words = ["cache", "build", "--tokenizer", "vq", "--data", "data", "--image-size", "16"]
    words += ["--shard-size", "5", "--device", "auto"]
    said = launchers(*words, "--out", "two", processes=2)
    assert said.count("24 images in 5 shards (0 kept)") == 1
    assert main([*words, "--out", "one"]) == 0
    assert contents(place / "two") == contents(place / "one")


def test_features_are_made_by_two(place: Path) -> None:
    write_labelled(place / "images")
    toy_generator().save_pretrained(place / "mage")
    words = ["features", "mage", "--data", "images", "--crop", "none", "--work"]
    said = launchers(*words, "work2", "--out", "two.npy", processes=2)
    assert said.count("nearest-neighbour accuracy") == 1
    assert main([*words, "work1", "--out", "one.npy"]) == 0
    assert (place / "two.npy").read_bytes() == (place / "one.npy").read_bytes()


def test_tokenizers_are_compared_by_two(place: Path) -> None:
    words = ["tokenizer", "eval", "vq", "--data", "data", "--image-size", "16"]
    said = launchers(*words, processes=2)
    assert said.count("encode/s and decode/s") == 1


def test_what_all_refuse_is_said_once(place: Path) -> None:
    words = ["cache", "build", "--tokenizer", "vq", "--data", "nowhere", "--out", "two"]
    with pytest.raises(AssertionError, match="nowhere") as told:
        launchers(*words, processes=2)
    assert str(told.value).count("unmask: error: ") == 1
