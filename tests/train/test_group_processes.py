"""Two processes train on groups of images what one process does, whatever the groups."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from accelerate import Accelerator
from test_mask_groups import latent_batches
from toy_latents import NETWORKS, latent_model
from toy_run import latest

from unmask.objectives.masked import MaskedObjective
from unmask.recipes.training import Ema
from unmask.train.loop import train
from unmask.train.state import read_checkpoint

RUNS = {
    "groups that a process holds": ("mar", {"group": 2}),
    "groups across processes": ("weighted", {"group": 3, "accumulate": 2}),
    "a smaller last micro-batch": ("mar", {"group": 4, "micro_batch_size": 3}),
}


def learn(out: Path, run: str, accelerator: Accelerator) -> None:
    name, options = RUNS[run]
    batches = latent_batches(
        name,
        **options,
        label_dropout=0.2,
        steps=6,
        lr=0.01,
        eps=1e-3,  # keys' biases have no gradient, and AdamW makes steps of its rounding
        clip_grad_norm=1.0,
        ema=Ema(decay=0.9, warmup="inverse"),
        tracker="none",
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    objective = MaskedObjective(latent_model(NETWORKS["drops"]))
    settings = batches.training
    train(objective, batches, settings=settings, out=out, config={}, accelerator=accelerator)


def one_of_two(rank: int, port: int, out: Path) -> None:
    """One process of a gloo group, as a launcher would start it."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for run in RUNS:
        learn(out / f"two {run}", run, Accelerator(cpu=True))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, tmp_path), nprocs=2)
    for run in RUNS:
        learn(tmp_path / f"one {run}", run, Accelerator(cpu=True))
        one, two = (
            read_checkpoint(latest(tmp_path / f"{name} {run}" / "checkpoints")).weights
            for name in ("one", "two")
        )
        for part, state in one.items():
            for name, value in state.items():
                torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-4)
        start = latent_model(NETWORKS["drops"]).state_dict()
        assert (one["model"]["trunk.tail"] - start["trunk.tail"]).abs().max() > 0.005
