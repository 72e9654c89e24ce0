"""Runs, caches, models and tokenizers that revision 63da7b7 wrote open and go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unmask
from unmask.cli import main
from unmask.data.cache import LatentCache, verify
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.tokenizer import weights_identity

OLD = Path(__file__).parent / "fixtures" / "before_issue_11"
TRAINING = "--training.tracker none --training.batch-size 8 --training.steps 6"
SAVES = "--training.save-every 2 --plan.steps 4"
MASKGIT = (
    "--image-size 16 --network.length 16 --network.width 16 --network.depth 1 --network.heads 2 "
    "--network.classes 2 --network.codes 32"
)
MAR = (
    "--image-size 16 --network.length 16 --network.width 16 --network.depth 1 "
    "--network.decoder-width 16 --network.decoder-depth 1 --network.heads 2 "
    "--network.decoder-heads 2 --network.classes 2 --network.channels 4 --network.head-width 16 "
    "--network.head-depth 1 --network.buffer 4"
)
RUNS = {
    "run": f"fashion-maskgit --data data --tokenizer vq {MASKGIT}",
    "mar-run": f"fashion-mar --cache moments --tokenizer kl {MAR}",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy that may be written into, as the current folder."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the runs were made
    yield tmp_path / "old"
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("model", "tokens"), [("run", "run"), ("mar-run", "mar")])
def test_a_model_gives_the_same_tokens(model: str, tokens: str) -> None:
    pipeline = unmask.load(OLD / f"{model}-model")
    made = pipeline.tokens([0, 0, 1, 1], seeds=0).tokens.numpy()
    wanted = np.load(OLD / f"{tokens}-tokens.npz")["tokens"]
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cache", "tokenizer"), [("codes", "vq"), ("run-cache", "vq"), ("moments", "kl")]
)
def test_a_cache_opens_and_is_whole(cache: str, tokenizer: str) -> None:
    identity = load_tokenizer(str(OLD / tokenizer)).identity
    opened = LatentCache.open(OLD / cache, tokenizer_identity=identity)
    assert len(opened) == 24
    assert opened.labels.tolist() == [0] * 12 + [1] * 12
    assert verify(OLD / cache) == []


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_by_the_same_words(here: Path, name: str) -> None:
    assert main([*f"train {RUNS[name]} {TRAINING} {SAVES} --out {name}".split()]) == 0
    made = load_file(here / name / "model" / "model.safetensors")
    wanted = load_file(OLD / f"{name}-model" / "model.safetensors")
    assert made.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(made[key], tensor, rtol=1e-5, atol=1e-6)


def test_a_cache_build_goes_on_by_the_same_words(here: Path) -> None:
    before = (here / "codes" / "codes-00000.npy").read_bytes()
    for gone in ("cache.json", "codes-00001.npy", "codes-00001.json"):
        (here / "codes" / gone).unlink()
    words = "cache build --tokenizer vq --data data --image-size 16 --no-flip --shard-size 10"
    assert main([*words.split(), "--out", "codes"]) == 0
    assert (here / "codes" / "codes-00000.npy").read_bytes() == before
    assert verify(here / "codes") == []


@pytest.mark.parametrize(
    ("name", "identity"),
    [("fashion-maskgit", "a1f3371863914dca"), ("fashion-mar", "40bd6b60fd0cb47c")],
)
def test_a_model_has_the_identity_that_older_folders_note(name: str, identity: str) -> None:
    """Folders of samples and of evaluations go on; a later option of recipes is no part of it.

    An option that comes to a recipe says so: ``field(default=..., repr=False)``.
    """
    pipeline = unmask.load(name)
    found = weights_identity(repr(pipeline.recipe), pipeline.model.state_dict().items())
    assert found == identity
