"""Training in fp16 with its loss scaler: a stopped run goes on bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.data import Dataset
from toy_latents import LATENT_TOY
from toy_run import StoppedError, outcome, toy_accelerator
from toy_system import write_images

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.files.serial import to_dict
from unmask.recipes.training import Ema
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.generator import make_task
from unmask.train.loop import train
from unmask.train.run import Preview

STEPS, STOP, SAVED = 14, 11, 8
RECIPE = replace(
    LATENT_TOY,
    network=replace(LATENT_TOY.network, classes=2, dropout=0.1),
    training=replace(
        LATENT_TOY.training, steps=STEPS, save_every=4, log_every=3, clip_grad_norm=3.0,
        noise_repeats=2, ema=Ema(decay=0.9, warmup="none"),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    root = tmp_path_factory.mktemp("moments")
    write_images(root / "images", 24)
    tokenizer = load_tokenizer(RECIPE.tokenizer)
    layout, out = CacheLayout(image_size=16), root / "cache"
    build_cache(tokenizer, open_source(root / "images"), out=out, layout=layout, progress=False)
    return LatentCache.open(out)


@pytest.fixture(autouse=True)
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 as on a GPU; accelerate refuses it on CPUs, where torch has autocast and the scaler."""
    toy_accelerator()
    monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")


class Stops(Dataset):
    """Batches that cannot be read from some step on."""

    def __init__(self, batches: Dataset, stop: int) -> None:
        self.batches, self.stop = batches, stop

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, step: int) -> Any:
        if step >= self.stop:
            raise StoppedError
        return self.batches[step]


def run(out: Path, cache: LatentCache, stop: int = STEPS) -> list[float]:
    """Train or go on in ``out`` as a new process would; the scale after each step of this call."""
    accelerator = toy_accelerator()
    accelerator.native_amp = True
    # too large a scale at first, so that steps are left out, and one that soon grows again
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=2)
    scales: list[float] = []
    assert accelerator.mixed_precision == "fp16"
    task = make_task(RECIPE, load_tokenizer(RECIPE.tokenizer))
    train(
        task.objective,
        Stops(task.batches(cache), stop),
        settings=RECIPE.training,
        out=out,
        config=to_dict(RECIPE),
        previews=[Preview(lambda *_: scales.append(accelerator.scaler.get_scale()), 1, raw=False)],
        accelerator=accelerator,
    )
    return scales


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path, cache: LatentCache) -> None:
    whole = run(tmp_path / "whole", cache)
    with pytest.raises(StoppedError):
        run(tmp_path / "parts", cache, STOP)
    again = run(tmp_path / "parts", cache)
    changes = [after / before for before, after in pairwise(whole)]
    assert min(changes) < 1, "no step was left out"
    assert max(changes[SAVED:]) > 1, "the scale never grew after the checkpoint"
    assert again == whole[SAVED:]
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    state = outcome(tmp_path / "parts")[1]
    assert state["scaler"]["scale"] == whole[-1]
    assert state["ema_updates"] == STEPS
