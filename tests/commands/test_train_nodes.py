"""``unmask train`` by several processes and machines: what one does, also after kills."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gloo import joined
from toy_run import latest, log_lines
from toy_system import TOY, toy_tokenizer, write_images

from unmask.cli import main
from unmask.files.serial import write_yaml
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.conduct import Conduct

Words = Callable[[int], list[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a recipe and two caches, of which the second is of other images."""
    root = tmp_path_factory.mktemp("place")
    write_yaml(replace(TOY, network=replace(TOY.network, classes=2)), root / "toy.yaml")
    save_tokenizer(toy_tokenizer(), root / "vq")
    for name, count in (("cache", 36), ("other", 40)):
        given = ["--data", write_images(root / name / "images", count), "--image-size", "16"]
        given += ["--tokenizer", root / "vq", "--out", root / name / "cache"]
        assert main(list(map(str, ["cache", "build", *given]))) == 0
    return root


def words(place: Path, out: Path, steps: int = 12, cache: str = "cache") -> list[str]:
    often = ["--training.log-every", 1, "--training.save-every", 3, "--training.preview-images", 0]
    given = ["--tokenizer", place / "vq", "--cache", place / cache / "cache", "--out", out, *often]
    given += ["--training.schedule", "constant", "--training.steps", steps]
    return list(map(str, ["train", place / "toy.yaml", *given]))


def launch(count: int, words_of: Words) -> list[int]:
    """How each process ended; a refusal counts as 1."""

    def body(rank: int) -> None:
        assert main(words_of(rank)) == 0

    return joined(count, body)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log_lines(out)]


@pytest.fixture(scope="module")
def alone(place: Path) -> list[float]:
    """Losses of twelve steps of one process."""
    assert main(words(place, place / "alone")) == 0
    return losses(place / "alone")


def test_four_are_killed_and_two_go_on(
    place: Path, alone: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = Conduct.after

    def die(self: Conduct, done: int) -> None:
        after(self, done)
        if done == 7 and os.environ["RANK"] == "3":
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as deadly:
        deadly.setattr(Conduct, "after", die)
        assert launch(4, lambda rank: words(place, tmp_path / "run")) == [1, 1, 1, -9]
    newest = latest(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert newest.name == "step-0000006"
    assert launch(2, lambda rank: words(place, tmp_path / "run")) == [0, 0]
    assert losses(tmp_path / "run") == pytest.approx(alone, abs=1e-5)


def test_machines_that_share_nothing_go_on_as_one(
    place: Path, alone: list[float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "cache", place / "copy", dirs_exist_ok=True)

    def words_of(steps: int, cache: str) -> Words:
        return lambda rank: words(place, tmp_path / f"{rank}", steps, cache if rank else "cache")

    assert launch(2, words_of(6, "copy")) == [0, 0]
    capfd.readouterr()
    assert launch(2, words_of(12, "other")) == [1, 1]
    said = [line for line in capfd.readouterr().err.splitlines() if "unmask:" in line]
    assert len(said) == 1
    assert "process 1 has made_from.content (the bytes of the images)=" in said[0]
    assert launch(2, words_of(12, "copy")) == [0, 0]
    assert losses(tmp_path / "0") == pytest.approx(alone, abs=1e-5)
    assert not (tmp_path / "1").exists()


class Nodes:
    """Two launchers of this machine, each as another node of one training.

    Args:
        words_of: the command of a node.
        each: processes a node.
    """

    def __init__(self, words_of: Words, each: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        launcher += [f"--nproc-per-node={each}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        self.running = [
            subprocess.Popen(
                [*launcher, f"--node-rank={node}", "-m", "unmask.cli", *words_of(node)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in (0, 1)
        ]

    def ends(self) -> list[tuple[bool, str]]:
        """Whether each ended well, and what it said."""
        said = [node.communicate(timeout=180)[0] for node in self.running]
        return [(not node.returncode, text) for node, text in zip(self.running, said, strict=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="finds a launcher's processes in /proc")
@pytest.mark.slow  # launchers start fourteen processes, some 60 CPU seconds
@pytest.mark.parametrize("shared", [True, False])
def test_two_launchers_are_two_nodes(place: Path, tmp_path: Path, shared: bool) -> None:
    """The second one's processes are killed; both start again with the same words."""
    shutil.copytree(place / "cache", place / "copy", dirs_exist_ok=True)

    def words_of(node: int) -> list[str]:
        if shared:
            return words(place, tmp_path / "0", 300)
        return words(place, tmp_path / str(node), 300, ("cache", "copy")[node])

    nodes = Nodes(words_of, each=1 + shared)
    checkpoints = tmp_path / "0" / "checkpoints"
    while latest(checkpoints) is None:
        assert nodes.running[0].poll() is None
        time.sleep(0.05)
    launcher = nodes.running[1].pid
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    assert not any(well for well, _ in nodes.ends())
    newest = latest(checkpoints)
    assert newest is not None
    assert newest.name < "step-0000300"
    found = Nodes(words_of, each=1 + shared).ends()
    assert all(well for well, _ in found), found
    assert main(words(place, tmp_path / "whole", 300)) == 0
    assert losses(tmp_path / "0") == pytest.approx(losses(tmp_path / "whole"), abs=1e-3)
    assert shared or not (tmp_path / "1").exists()
