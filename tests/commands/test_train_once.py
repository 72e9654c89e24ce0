"""A training builds its network once, reads its base once and hashes a checkpoint once."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from toy_system import TOY, toy_pipeline, toy_tokenizer, write_images

from unmask.cli import main
from unmask.files.serial import write_yaml
from unmask.nn.feedback import Feedback
from unmask.nn.model import MaskedModel
from unmask.pipeline import Pipeline
from unmask.recipes.objectives import Substitution
from unmask.tokenizers.folder import save_tokenizer

NETWORK = replace(TOY.network, classes=2)
RECIPE = replace(
    TOY,
    name="toy-selfguidance",
    network=replace(NETWORK, feedback=Feedback(factor=4)),
    substitution=Substitution(),
    training=replace(TOY.training, save_every=2, tracker="none"),
)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A training of an adapter on a base."""
    toy_pipeline(replace(TOY, network=NETWORK)).save_pretrained(tmp_path / "base")
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    write_yaml(RECIPE, tmp_path / "sg.yaml")
    images = write_images(tmp_path / "images")
    places = {"--data": images, "--tokenizer": tmp_path / "vq", "--base": tmp_path / "base"}
    options = [str(word) for pair in places.items() for word in pair]
    return ["train", str(tmp_path / "sg.yaml"), *options, "--out", str(tmp_path / "run")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts networks with memory, models read, and checkpoints' files hashed."""
    counts: Counter[str] = Counter()
    build, read, digest = MaskedModel.__init__, Pipeline.from_pretrained, hashlib.file_digest

    def counted(self: MaskedModel, *parts: Any, **sizes: Any) -> None:
        here = torch.empty(()).device.type != "meta"
        counts["adapters built"] += here and sizes.get("feedback") is not None
        build(self, *parts, **sizes)

    def opened(name: str, **more: Any) -> Pipeline:
        counts["models read"] += 1
        return read(name, **more)

    def hashed(file: IO[bytes], kind: Any) -> Any:
        counts[f"hashes of {Path(file.name).name}"] += "step-" in file.name
        return digest(file, kind)

    monkeypatch.setattr(MaskedModel, "__init__", counted)
    monkeypatch.setattr(Pipeline, "from_pretrained", opened)
    monkeypatch.setattr(hashlib, "file_digest", hashed)
    return counts


def test_each_part_is_made_once(words: list[str], seen: Counter[str]) -> None:
    assert main(words) == 0
    assert (seen["adapters built"], seen["models read"]) == (1, 1)
    assert seen["hashes of ema.safetensors"] == seen["hashes of model.safetensors"] == 0
    seen.clear()
    assert main([*words, "--training.steps", "6"]) == 0
    assert (seen["adapters built"], seen["models read"]) == (1, 1)
    assert seen["hashes of ema.safetensors"] == seen["hashes of model.safetensors"] == 1
    assert seen["hashes of state.pt"] == 1
    seen.clear()
    assert main(words) == 0  # more steps are done than asked for: nothing is written
    assert main([*words, "--training.steps", "6"]) == 0  # only exports again
    assert seen["hashes of model.safetensors"] == 2
