"""A tokenizer's training goes on to the bit, whatever the order of its weights in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from unmask.cli import main


@pytest.mark.parametrize("recipe", ["fashion-vq", "fashion-kl"])
def test_a_resumed_training_ends_with_the_same_bytes(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = (
        f"tokenizer train {recipe} --data fashion-mnist --out {out} --training.steps 4 "
        "--training.batch-size 4 --training.save-every 2 --training.keep all "
        "--training.preview-images 0 --training.tracker none"
    ).split()
    assert main(words) == 0
    last = out / "checkpoints" / "step-0000004"
    whole = (last / "model.safetensors").read_bytes()
    for made in (last, out / "model"):
        shutil.rmtree(made)
    assert main(words) == 0
    assert (last / "model.safetensors").read_bytes() == whole
