"""SIGTERM and SIGINT: the step in flight is finished and saved, by all processes the same."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import ToyBatches, latest, log_lines, outcome, toy_accelerator, toy_settings, toy_train

from unmask.errors import InputError
from unmask.machine import signals
from unmask.recipes.training import Training
from unmask.train.agreement import Wish, agreed
from unmask.train.run import Preview

PAUSE = 0.01  # seconds a batch, so that signals find the run in every place


class Told(ToyBatches):
    """Batches that take their time and tell which step has begun."""

    def __init__(self, settings: Training, told: Path, rank: int = 0, world: int = 1) -> None:
        super().__init__(settings, rank, world)
        self.told = told

    def __getitem__(self, step: int) -> list:
        with self.told.open("a") as file:
            file.write(f"{step}\n")
        time.sleep(PAUSE)
        return super().__getitem__(step)


def run_it(out: Path, steps: int, workers: int = 0) -> None:
    """The run, in a process of its own, which saves by itself at its end alone."""
    multiprocessing.set_start_method("fork", force=True)  # of workers: nothing is imported anew
    settings = toy_settings(steps=steps, save_every=0, log_every=3)
    batches = Told(settings, out.with_suffix(".told"))
    try:
        with signals.listening():
            toy_train(out, settings, batches=batches, num_workers=workers)
    except KeyboardInterrupt as end:
        sys.exit(signals.leave(end))


def children() -> multiprocessing.context.ForkServerContext:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["toy_run", "test_stop", "unmask.train.loop"])
    return processes


def saved_step(out: Path) -> int:
    folder = latest(out / "checkpoints")
    return 0 if folder is None else int(folder.name.removeprefix("step-"))


def steps_told(out: Path) -> list[int]:
    told = out.with_suffix(".told")
    return list(map(int, told.read_text().split())) if told.exists() else []


def begun(out: Path) -> int:
    return (steps_told(out) or [0])[-1]


@pytest.mark.parametrize(
    ("stops", "steps"),
    [(4, 60), pytest.param(20, 400, marks=pytest.mark.slow)],  # the second takes 1 to 3 minutes
)
def test_a_signal_at_any_moment_loses_the_step_in_flight_at_most(
    tmp_path: Path, stops: int, steps: int
) -> None:
    dice, out, seen = random.Random(stops), tmp_path / "stopped", 0
    for index in range(stops):
        number = dice.choice([signal.SIGTERM, signal.SIGINT])
        child = children().Process(target=run_it, args=(out, steps, index % 2))
        first, before = saved_step(out), steps_told(out)
        child.start()
        while child.is_alive() and steps_told(out) == before:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.5 * steps * PAUSE / stops))
        os.kill(child.pid, number)
        asked = time.monotonic()
        child.join()
        assert child.exitcode == 128 + number
        assert time.monotonic() - asked < 20
        # workers read ahead: what they have begun need not have reached the training
        assert saved_step(out) >= (begun(out) if index % 2 == 0 else first + 1)
        seen += saved_step(out) > first
    assert seen == stops
    last = children().Process(target=run_it, args=(out, steps))
    last.start()
    last.join()
    assert last.exitcode == 0
    toy_train(tmp_path / "whole", toy_settings(steps=steps, save_every=0, log_every=3))
    assert outcome(out) == outcome(tmp_path / "whole")


def test_workers_live_through_a_signal_to_the_whole_group(tmp_path: Path) -> None:
    """As Ctrl-C in a terminal and clusters send it."""
    out = tmp_path / "run"
    child = children().Process(target=in_a_group, args=(out,))
    child.start()
    while child.is_alive() and begun(out) < 5:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode == 130
    assert saved_step(out) > 0


def in_a_group(out: Path) -> None:
    os.setpgid(0, 0)
    run_it(out, 2000, workers=2)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = children().Process(target=in_a_long_step, args=(out,))
    child.start()
    while child.is_alive() and not out.with_suffix(".told").exists():
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGTERM)  # passed on by a launcher
    time.sleep(signals.ECHO + 0.3)
    assert child.is_alive()
    asked = time.monotonic()
    os.kill(child.pid, signal.SIGINT)
    child.join()
    assert time.monotonic() - asked < 2
    assert child.exitcode == 130


def test_a_step_without_end_is_left(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = children().Process(target=in_a_long_step, args=(out, 1.0))
    child.start()
    while child.is_alive() and not out.with_suffix(".told").exists():
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGTERM)
    child.join(20)
    assert child.exitcode == 143


def in_a_long_step(out: Path, grace: float = signals.GRACE) -> None:
    """The main thread is deep in code that runs no Python."""
    signals.GRACE = grace

    class Stuck(Told):
        def __getitem__(self, step: int) -> None:
            super().__getitem__(step)
            mutex = ctypes.create_string_buffer(64)
            for _ in range(2):  # the second one waits for ever, whatever signals come
                ctypes.CDLL(None).pthread_mutex_lock(mutex)

    settings = toy_settings()
    with signals.listening():
        toy_train(out, settings, batches=Stuck(settings, out.with_suffix(".told")))


def one_of_two(rank: int, port: int, out: Path) -> None:
    """One process of a gloo group; each gets its signal at another step, or none."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator = toy_accelerator()
    settings = toy_settings(steps=200, save_every=0)
    told: dict[str, object] = {}
    for round_, (whom, step) in enumerate([(0, 9), (1, 17)]):

        class Signals(ToyBatches):
            def __getitem__(self, k: int, whom: int = whom, step: int = step) -> list:
                if k == step and rank == whom:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().__getitem__(k)

        try:
            toy_train(out, settings, batches=Signals(settings, rank, 2), accelerator=accelerator)
        except signals.Stopped as end:
            told[str(round_)] = [saved_step(out), str(end)]
    out.with_name(f"told{rank}.json").write_text(json.dumps(told))

    class Ends(ToyBatches):
        def __getitem__(self, k: int) -> list:
            if k == 30 and rank == 1:
                os._exit(0)
            return super().__getitem__(k)

    with pytest.raises(InputError, match="another process of this launch has ended"):
        toy_train(out, settings, batches=Ends(settings, rank, 2), accelerator=accelerator)
    out.with_name("alone.txt").write_text("one line")


def test_two_processes_leave_at_the_same_step(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, tmp_path / "two"), nprocs=2)
    main, other = (json.loads((tmp_path / f"told{rank}.json").read_text()) for rank in (0, 1))
    # one step to tell, one to hear
    assert [main[r][0] for r in "01"] == [other[r][0] for r in "01"] == [11, 19]
    assert main["1"][1].startswith("SIGTERM: stopped after step 19 of 200, which is saved in")
    assert other["1"][1] == ""  # one of them speaks
    assert (tmp_path / "alone.txt").exists()  # and where one ends, the other says so


def test_one_process_agrees_with_itself_at_once() -> None:
    with agreed(1) as agreement:
        assert agreement.exchange(Wish(15, True)) == Wish(15, True)
        assert agreement.exchange(Wish()) == Wish()


@pytest.mark.parametrize(("optional", "ended"), [(True, [20, 24]), (False, [10, 20, 24])])
def test_a_look_is_broken_off_and_made_good(tmp_path: Path, optional: bool, ended: list) -> None:
    """Of sheets, which may be left out, the last one; of scores every one."""
    seen: list[tuple[int, str]] = []

    def look(folder: Path, step: int, averaged: bool) -> None:
        if step in (10, 24) and (step, "signalled") not in seen:
            seen.append((step, "signalled"))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            raise AssertionError("the look was not broken off")
        seen.append((step, "ended"))

    preview = Preview(
        look,
        every=10,
        raw=False,
        optional=optional,
        missing=lambda out, step: (step, "ended") not in seen,
    )
    settings = toy_settings(save_every=0, preview_share=1.0)
    for stopped in (10, 24):
        with pytest.raises(signals.Stopped, match=f"after step {stopped} of 24") as end:
            toy_train(tmp_path / "run", settings, previews=[preview])
        assert end.value.number == signal.SIGTERM
        assert saved_step(tmp_path / "run") == stopped
    toy_train(tmp_path / "run", settings, previews=[preview])
    assert [step for step, what in seen if what == "ended"] == ended
    toy_train(tmp_path / "whole", settings)
    assert outcome(tmp_path / "run")[:2] == outcome(tmp_path / "whole")[:2]


def test_the_clock_saves_between(tmp_path: Path) -> None:
    """With a minute of no length every step is due, but no more than saving may cost."""
    settings = toy_settings(steps=200, save_every=0, save_minutes=1e-9, keep=0, log_every=0)
    began = time.monotonic()
    toy_train(tmp_path, settings)
    taken = time.monotonic() - began
    steps = sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").glob("step-*"))
    assert steps[-1] == 200
    assert 1 < len(steps) < 100
    assert steps[0] == 1  # what it costs is not known before
    assert taken < 60
    toy_train(tmp_path / "never", replace(settings, save_minutes=0.0))
    assert len(list((tmp_path / "never" / "checkpoints").iterdir())) == 1
    assert log_lines(tmp_path) == log_lines(tmp_path / "never")
