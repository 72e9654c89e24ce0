"""Checkpoints that are written while the training goes on keep every promise of the others."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from forks import forked, status
from toy_run import ToyBatches, latest, outcome, toy_settings, toy_train

from unmask.errors import InputError
from unmask.machine import signals
from unmask.train import behind, run, state
from unmask.train.run import Preview
from unmask.train.state import Checkpoint, fault, read_checkpoint

SETTINGS = toy_settings(save_every=4, keep="all", save_minutes=0)


class Gate:
    """Keeps what is written behind the training from being written until it is opened, once."""

    def __init__(self) -> None:
        self.open, self.write = threading.Event(), run.write_checkpoint

    def __call__(self, *args: Any, **more: Any) -> Path:
        """Write, when it is time."""
        if threading.current_thread() is not threading.main_thread():
            assert self.open.wait(60)
            self.open.clear()
        return self.write(*args, **more)


class Steps(ToyBatches):
    """Batches that open the gate before each save, and tell which checkpoint they saw."""

    def __init__(self, out: Path, gate: Gate) -> None:
        super().__init__(SETTINGS)
        self.out, self.gate, self.seen = out, gate, list[str]()

    def __getitem__(self, step: int) -> list:
        newest = latest(self.out / "checkpoints")
        self.seen.append(newest.name[-2:] if newest else "")
        if step % 4 == 3 and step > 3:  # at 3 there is no save yet
            self.gate.open.set()
        return super().__getitem__(step)


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The CPU counts as a device beside the machine."""
    monkeypatch.setattr(run, "has_own_memory", lambda device: True)
    gate = Gate()
    monkeypatch.setattr(run, "write_checkpoint", gate)
    return gate


def test_what_is_written_is_the_step_and_no_later_one(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tmp_path / "behind", gate)
    toy_train(tmp_path / "behind", SETTINGS, batches=steps)
    assert [steps.seen[k] for k in (7, 8, 11, 12, 15)] == ["", "04", "04", "08", "08"]
    monkeypatch.undo()
    toy_train(tmp_path / "usual", SETTINGS)
    assert outcome(tmp_path / "behind") == outcome(tmp_path / "usual")
    for step in range(4, 25, 4):
        one, other = (
            tmp_path / name / "checkpoints" / f"step-{step:07d}" for name in ("behind", "usual")
        )
        assert not fault(one)
        for name in ("model.safetensors", "ema.safetensors", "config.json"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
        assert repr(read_checkpoint(one).state) == repr(read_checkpoint(other).state)


def test_looks_and_the_end_wait_for_it(tmp_path: Path, gate: Gate) -> None:
    seen: list[tuple[int, str]] = []

    def look(folder: Path, step: int, averaged: bool) -> None:
        newest = latest(tmp_path / "checkpoints")
        assert newest is not None
        seen.append((step, newest.name))

    gate.open.clear = gate.open.set  # type: ignore[method-assign]
    gate.open.set()
    toy_train(tmp_path, SETTINGS, previews=[Preview(look, every=5, raw=False)])
    assert [step for step, _ in seen] == [5, 10, 15, 20, 24]
    assert all(int(name[5:]) >= step // 4 * 4 for step, name in seen)


def test_a_refusal_of_the_disk_ends_the_training_at_the_next_save(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = state._build

    def refuse(folder: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.step == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        build(folder, checkpoint)

    monkeypatch.setattr(state, "_build", refuse)
    steps = Steps(tmp_path, gate)
    with pytest.raises(InputError, match=r"step-0000012.*No space left"):
        toy_train(tmp_path, SETTINGS, batches=steps)
    assert len(steps.seen) == 16
    newest = latest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-0000008"


class Signals(Steps):
    """Batches of which one, while a checkpoint is being written, sends a signal."""

    def __init__(self, out: Path, gate: Gate, number: int) -> None:
        super().__init__(out, gate)
        self.number = number

    def __getitem__(self, step: int) -> list:
        batch = super().__getitem__(step)
        if step == 13:
            assert self.seen[-1] == "08"
            os.kill(os.getpid(), self.number)
            self.gate.open.set()
        return batch


def test_a_kill_in_between_loses_that_one_alone(tmp_path: Path, gate: Gate) -> None:
    batches = Signals(tmp_path / "run", gate, signal.SIGKILL)
    child = forked(lambda: toy_train(tmp_path / "run", SETTINGS, batches=batches))
    assert status(child) == -signal.SIGKILL
    batches = Steps(tmp_path / "run", gate)
    assert toy_train(tmp_path / "run", SETTINGS, batches=batches).resumed_from == 8
    toy_train(tmp_path / "whole", SETTINGS, batches=Steps(tmp_path / "whole", gate))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_signal_in_between_saves_both(tmp_path: Path, gate: Gate) -> None:
    batches = Signals(tmp_path, gate, signal.SIGTERM)
    with signals.listening(), pytest.raises(signals.Stopped, match="after step 14 of 24"):
        toy_train(tmp_path, SETTINGS, batches=batches)
    folders = sorted((tmp_path / "checkpoints").iterdir())
    assert [folder.name[-2:] for folder in folders] == ["04", "08", "12", "14"]
    assert not any(map(fault, folders))


def test_without_memory_for_a_copy_the_training_waits(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "free_memory", lambda: 100)
    steps = Steps(tmp_path, gate)
    toy_train(tmp_path, SETTINGS, batches=steps)
    assert [steps.seen[k] for k in (4, 8, 12)] == ["04", "08", "12"]
