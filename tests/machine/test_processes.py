"""Two processes, stopped once, see every sample once and end where one process ends."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from toy_run import (
    StoppedError,
    StopsAt,
    ToyBatches,
    latest,
    log_lines,
    toy_accelerator,
    toy_settings,
    toy_train,
)

from unmask.train.state import read_checkpoint


class Witness(ToyBatches):
    """Batches that write down which rows this process was given."""

    def __init__(self, out: Path, rank: int, world: int) -> None:
        super().__init__(toy_settings(accumulate=2), rank, world)
        self.seen, self.out = [], out

    def __getitem__(self, step: int) -> list:
        parts = super().__getitem__(step)
        self.seen += [[step, *x[:, 0].tolist()] for x, _, _ in parts]
        self.out.write_text(json.dumps(self.seen))
        return parts


def one_of_two(rank: int, port: int, out: Path) -> None:
    """One process of a gloo group, as a launcher would start it."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    accelerator = toy_accelerator()
    batches = Witness(out.with_name(f"rows{rank}.json"), rank, accelerator.num_processes)
    settings = toy_settings(accumulate=2)
    with pytest.raises(StoppedError):  # after the save of step 8, inside an interval of the log
        toy_train(
            out,
            settings,
            dropout=0.0,
            batches=StopsAt(settings, 10, rank, 2),
            accelerator=accelerator,
        )
    toy_train(out, settings, dropout=0.0, batches=batches, accelerator=accelerator)
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, tmp_path / "two"), nprocs=2)
    toy_train(tmp_path / "one", toy_settings(accumulate=2), dropout=0.0)

    rows = [json.loads((tmp_path / f"rows{rank}.json").read_text()) for rank in (0, 1)]
    for step in range(8, 24):
        given = [v for seen in rows for s, *values in seen if s == step for v in values]
        whole = [
            v for x, _, _ in ToyBatches(toy_settings(accumulate=2))[step] for v in x[:, 0].tolist()
        ]
        assert sorted(given) == sorted(whole)
        assert len(set(given)) == 8

    two, one = (
        read_checkpoint(latest(tmp_path / name / "checkpoints")).weights for name in ("two", "one")
    )
    for part, state in one.items():
        for name, value in state.items():
            torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(log_lines(tmp_path / "two"), log_lines(tmp_path / "one"), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert abs(ours[name] - theirs[name]) < 1e-4, (name, ours, theirs)
