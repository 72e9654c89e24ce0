"""A run small enough to be killed twenty times: two layers with dropout, sixteen images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from unmask.draws import keyed_generator
from unmask.recipes.training import Ema, Training
from unmask.train.log import TIMING
from unmask.train.loop import TrainResult, train
from unmask.train.state import fault, read_checkpoint, step_folders

WIDTH, CODES = 8, 6


class ToyModel(nn.Module):
    """Codes of width features; a buffer counts nothing but must travel with the weights."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(dropout)
        self.outer = nn.Linear(WIDTH, CODES)
        self.frozen = nn.Parameter(torch.ones(WIDTH), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))
        stream = keyed_generator("toy")
        for p in (p for p in self.parameters() if p.requires_grad):
            p.data = 0.5 * torch.randn(p.shape, generator=stream)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.drop(torch.tanh(self.inner(x * self.frozen))))


class ToyObjective(nn.Module):
    """Cross entropy of the model, with a second trained part that is not averaged."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.averaged = ToyModel(dropout)
        self.judge = nn.Parameter(torch.zeros(CODES))

    def forward(self, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        x, y, weight = batch
        logits = self.averaged(x) + self.judge
        loss = nn.functional.cross_entropy(logits, y, reduction="sum") * weight
        hits = (logits.argmax(-1) == y).sum() * weight
        return {"loss": loss, "accuracy": hits}

    def after_step(self, step: int, generator: torch.Generator) -> None:
        self.averaged.seen += torch.rand((), generator=generator)


class ToyBatches(Dataset):
    """Global batches of 8 rows, cut among processes and micro-batches."""

    def __init__(self, settings: Training, rank: int = 0, world: int = 1) -> None:
        self.settings, self.rank, self.world = settings, rank, world

    def __len__(self) -> int:
        return self.settings.steps

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        size, parts = self.settings.batch_size, self.settings.accumulate
        x = torch.randn(size, WIDTH, generator=keyed_generator(self.settings.seed, "x", step))
        y = x[:, :CODES].argmax(-1)
        cuts = torch.arange(size).view(parts, self.world, -1)[:, self.rank]
        return [(x[cut], y[cut], torch.tensor(1 / size)) for cut in cuts]


class StoppedError(Exception):
    """The disk with the data is gone."""


class StopsAt(ToyBatches):
    """Batches that cannot be read from some step on."""

    def __init__(self, settings: Training, stop: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(settings, rank, world)
        self.stop = stop

    def __getitem__(self, step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        if step >= self.stop:
            raise StoppedError
        return super().__getitem__(step)


def toy_settings(**changes: object) -> Training:
    """24 steps, saved every 4, logged every 3, so that no interval matches another."""
    usual: dict = {
        "steps": 24,
        "batch_size": 8,
        "lr": 0.02,
        "warmup_steps": 3,
        "weight_decay": 0.01,
        "clip_grad_norm": 1.0,
        "ema": Ema(decay=0.9),
        "log_every": 3,
        "save_every": 4,
    }
    return Training(**usual | changes)


def toy_accelerator() -> Accelerator:
    """The CPU, without trackers."""
    return Accelerator(cpu=True)


def toy_train(
    out: Path, settings: Training | None = None, *, dropout: float = 0.1, **more: object
) -> TrainResult:
    """Train or continue the toy run in ``out``."""
    settings = settings or toy_settings()
    accelerator = more.pop("accelerator", None) or toy_accelerator()
    batches = more.pop("batches", None) or ToyBatches(
        settings, accelerator.process_index, accelerator.num_processes
    )
    return train(
        more.pop("objective", None) or ToyObjective(dropout),
        batches,
        settings=settings,
        out=out,
        config=more.pop("config", {"training": {"steps": settings.steps, "lr": settings.lr}}),
        accelerator=accelerator,
        **more,
    )


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a ``checkpoints`` folder; nothing is removed."""
    folders = step_folders(directory)
    newest_first = (folders[step] for step in sorted(folders, reverse=True))
    return next((folder for folder in newest_first if not fault(folder)), None)


def outcome(out: Path) -> tuple[dict, dict, list]:
    """What two equal runs share: weights to the bit, training state, and log without timing."""
    folder = latest(out / "checkpoints")
    assert folder is not None
    saved = read_checkpoint(folder)
    hashes = {
        f"{part}/{name}": hashlib.blake2b(t.contiguous().numpy().tobytes()).hexdigest()
        for part, state in saved.weights.items()
        for name, t in state.items()
    }
    state = {str(k): repr_exact(v) for k, v in saved.state.items()}
    return hashes, state, log_lines(out)


def repr_exact(value: object) -> object:
    """Nested state with tensors as lists, so that == is exact."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(k): repr_exact(v) for k, v in value.items()}
    return [repr_exact(v) for v in value] if isinstance(value, (list, tuple)) else value


def log_lines(out: Path) -> list[dict]:
    """Log lines without the fields that measure time."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines]
