"""Processes wait for each other's work as long as it takes, and hear of errors and deaths."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist
from gloo import joined

from unmask import cli
from unmask.errors import InputError, SaidError
from unmask.machine import processes
from unmask.machine.processes import any_says, by_main, gathered, launched, meet, refusal, share


def test_processes_wait_longer_than_the_default_group() -> None:
    def body(rank: int) -> None:
        tensor = torch.ones(())
        assert launched().num_processes == 3
        dist.all_reduce(tensor)  # the default group works, for what is quick
        assert tensor == 3

        def slow() -> str:
            time.sleep(2)
            return "done"

        assert by_main(slow) == "done"
        time.sleep(1.5 * (rank == 1))
        meet()
        time.sleep(1.5 * (rank == 2))
        assert gathered(rank) == [0, 1, 2]
        assert any_says("" if rank == 0 else f"from {rank}") == "from 1"
        assert [n for own in gathered(list(share(7))) for n in own] == list(range(7))
        time.sleep(1.5 * (rank == 0))
        processes.part()

    assert joined(3, body, patience=1) == [0, 0, 0]


def test_the_default_group_gives_up() -> None:
    """Otherwise the test before would show nothing."""

    def body(rank: int) -> None:
        launched()
        if rank == 0:
            time.sleep(3)
        else:
            with pytest.raises(RuntimeError, match="imed out"):
                dist.barrier()

    assert joined(2, body, patience=1) == [0, 0]


def test_an_error_of_the_main_process_is_said_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise InputError("the disk is full; make room")

    def body(rank: int) -> None:
        with pytest.raises(InputError, match="make room") as told:
            by_main(fail)
        assert isinstance(told.value, SaidError) == (rank > 0)
        assert isinstance(refusal("a line"), SaidError) == (rank > 0)
        with pytest.raises(ZeroDivisionError if rank == 0 else SaidError):
            by_main(lambda: 1 // 0)
        assert cli.main(["any"]) == 2
        processes.part()

    monkeypatch.setattr(cli, "_run", lambda words: by_main(fail))
    assert joined(3, body) == [0, 0, 0]
    assert capfd.readouterr().err.count("the disk is full") == 1


def test_a_dead_process_ends_those_who_wait() -> None:
    def body(rank: int) -> None:
        meet()
        if rank == 1:
            time.sleep(0.5)
            os._exit(9)
        with pytest.raises(InputError, match="another process of this launch has ended"):
            meet()

    start = time.monotonic()
    assert joined(3, body) == [0, 9, 0]
    assert time.monotonic() - start < 20


def test_one_process_waits_for_nobody() -> None:
    meet()
    assert gathered("own") == ["own"]
    assert by_main(lambda: 3) == 3
    assert share(5) == range(5)


def test_processes_may_come_late_to_the_first_meeting() -> None:
    def body(rank: int) -> None:
        launched()
        time.sleep(3 * (rank == 1))
        meet()
        processes.part()

    assert joined(2, body, patience=1) == [0, 0]
