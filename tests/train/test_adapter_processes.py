"""Two processes fine-tune the adapter that one process does: gradients are averaged."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
from accelerate import Accelerator
from toy_run import latest

from unmask.draws import keyed_generator
from unmask.masking import TrainMasking
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.nn.feedback import Feedback
from unmask.nn.model import initialize
from unmask.objectives.substitution import SubstitutionObjective
from unmask.recipes.objectives import Substitution
from unmask.recipes.training import Ema, Training
from unmask.train.loop import train
from unmask.train.masked_batches import MaskedBatches, SubstitutionBatches
from unmask.train.state import read_checkpoint

NETWORK = MaskGITVitNetwork(
    codes=12, width=16, depth=2, heads=2, length=16, classes=4, feedback=Feedback(factor=4)
)
OPTIONS = Substitution()


class Codes:
    """Thirty-two images of random codes."""

    labels = torch.arange(32) % 4
    channels, length, views = 0, 16, 1

    def __len__(self) -> int:
        return 32

    def tokens(
        self, rows: torch.Tensor, views: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.randint(12, (32, 16), generator=keyed_generator("codes"))[rows]


def fine_tune(out: Path, normalize: str, accelerator: Accelerator) -> None:
    settings = Training(
        steps=12,
        batch_size=8,
        accumulate=2,
        lr=0.01,
        clip_grad_norm=1.0,
        normalize=normalize,
        ema=Ema(decay=0.9, warmup="inverse", after_step=4),
        save_every=6,
    )
    model = NETWORK.build()
    initialize(model, keyed_generator("weights"))
    masked = MaskedBatches(
        Codes(),
        TrainMasking(),
        training=settings,
        classes=4,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    batches = SubstitutionBatches(masked, OPTIONS)
    objective = SubstitutionObjective(model, OPTIONS, label_smoothing=0.1)
    train(objective, batches, settings=settings, out=out, config={}, accelerator=accelerator)


def one_of_two(rank: int, port: int, out: Path) -> None:
    """One process of a gloo group, as a launcher would start it."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for normalize in ("global", "micro"):
        fine_tune(out / f"{normalize}-two", normalize, Accelerator(cpu=True))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, tmp_path), nprocs=2)
    for normalize in ("global", "micro"):
        fine_tune(tmp_path / f"{normalize}-one", normalize, Accelerator(cpu=True))
        one, two = (
            read_checkpoint(latest(tmp_path / f"{normalize}-{name}" / "checkpoints")).weights
            for name in ("one", "two")
        )
        assert set(one) == {"model", "ema"}
        for part, state in one.items():
            for name, value in state.items():
                torch.testing.assert_close(two[part][name], value, atol=1e-5, rtol=1e-4)
        moved = one["model"]["top"] - torch.eye(16)
        assert moved.abs().max() > 0.01
        assert not torch.equal(one["ema"]["top"], one["model"]["top"])
