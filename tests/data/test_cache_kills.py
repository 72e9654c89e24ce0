"""A build that is killed by the system at random moments ends as one that never was."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
from tiny_data import TOKENIZERS, ListSource, contents
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import verify

IMAGES = 60
PAUSE = 0.02  # seconds a batch, so that kills find the build in every place
VALUES = [None if row % 11 == 3 else row for row in range(IMAGES)]


def build(out: Path, kind: str, pause: float) -> None:
    """Two images a shard, one at a time; some are unreadable."""
    tokenizer = TOKENIZERS[kind]()
    encode = tokenizer.encode

    def _slowly(images: Tensor) -> Tensor:
        time.sleep(pause)
        return encode(images)

    tokenizer.encode = _slowly  # type: ignore[method-assign]
    layout = CacheLayout(image_size=8, shard_size=2, batch_size=1)
    labels = [row % 5 for row in range(IMAGES)]
    source = ListSource(VALUES, labels)
    build_cache(tokenizer, source, out=out, layout=layout, progress=False)


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_kills_leave_no_trace(tmp_path: Path, kind: str, kills: int) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["unmask.data.build_cache", "tiny_data"])
    dice, out = random.Random(kind), tmp_path / "killed"
    progress = set()
    for _ in range(kills):
        child = processes.Process(target=build, args=(out, kind, PAUSE))
        known = set(out.glob("*.npy"))
        child.start()
        while child.is_alive() and set(out.glob("*.npy")) == known:
            time.sleep(0.001)  # it has moved on since the last kill
        time.sleep(dice.uniform(0, IMAGES * PAUSE / kills / 2))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        progress.add(len(list(out.glob("*.npy"))))
    assert len(progress) == kills
    build(out, kind, 0)
    build(tmp_path / "whole", kind, 0)
    assert contents(out) == contents(tmp_path / "whole")
    assert verify(out) == []
