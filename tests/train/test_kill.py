"""A run that is killed by the system at random moments ends as one that never was."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest
from toy_run import ToyBatches, outcome, toy_settings, toy_train

PAUSE = 0.004  # seconds a batch, so that kills find the run in every place


class SlowBatches(ToyBatches):
    """Batches that take their time."""

    def __getitem__(self, step: int) -> list:
        time.sleep(PAUSE)
        return super().__getitem__(step)


def run_it(out: Path, steps: int) -> None:
    """The run, in a process of its own; saves often to be killed while saving."""
    settings = toy_settings(steps=steps, save_every=2, log_every=3)
    toy_train(out, settings, batches=SlowBatches(settings))


def kill_at_random(out: Path, *, kills: int, steps: int, seed: int) -> int:
    """Start the run again and again, kill it ``kills`` times, then let it end.

    Returns:
        How often it was really killed before its end.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["toy_run", "unmask.train.loop"])
    dice, killed = random.Random(seed), 0
    for _ in range(kills):
        child = processes.Process(target=run_it, args=(out, steps))
        child.start()
        while child.is_alive() and not (out / "recipe.yaml").exists():
            time.sleep(0.005)
        newest = max((out / "checkpoints").glob("step-*"), default=None)
        while child.is_alive() and newest == max(
            (out / "checkpoints").glob("step-*"), default=None
        ):
            time.sleep(0.002)  # it has moved on since the last kill
        time.sleep(dice.uniform(0, steps * PAUSE / kills))
        child.kill()
        child.join()
        killed += child.exitcode == -signal.SIGKILL
    last = processes.Process(target=run_it, args=(out, steps))
    last.start()
    last.join()
    assert last.exitcode == 0
    return killed


@pytest.mark.parametrize(
    ("kills", "steps"), [(3, 40), pytest.param(20, 600, marks=pytest.mark.slow)]
)
def test_kills_leave_no_trace(tmp_path: Path, kills: int, steps: int) -> None:
    assert kill_at_random(tmp_path / "killed", kills=kills, steps=steps, seed=kills) == kills
    run_it(tmp_path / "whole", steps)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
