"""A compiled objective: the same losses, whole graphs, few of them, and the names that were."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters
from toy_latents import LATENT_TOY
from toy_run import toy_accelerator
from toy_system import TOY, toy_tokenizer, write_images

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.errors import InputError
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.generator import make_task

RECIPES = {"codes": TOY, "latents": LATENT_TOY}
STEPS = 4


def recipe_of(name: str, **training: Any) -> Recipe:
    known = RECIPES[name]
    return replace(
        known,
        network=replace(known.network, classes=2, depth=1),
        training=replace(
            known.training, steps=STEPS, log_every=1, preview_images=0, save_every=STEPS, **training
        ),
    )


def test_a_compiler_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, examples: object) -> None:
        raise RuntimeError("no g++ here")

    write_images(tmp_path / "images", 24)
    source, folder = open_source(tmp_path / "images"), tmp_path / "cache"
    build_cache(
        toy_tokenizer(), source, out=folder, layout=CacheLayout(image_size=16), progress=False
    )
    cache, plain = LatentCache.open(folder), torch.compile
    monkeypatch.setattr(torch, "compile", lambda of: plain(of, backend=broken))
    torch._dynamo.reset()
    toy_accelerator()
    with pytest.raises(InputError, match=r"torch\.compile failed \(BackendCompilerFailed: "):
        make_task(recipe_of("codes"), toy_tokenizer()).train(
            cache, out=tmp_path / "run", compiled=True
        )


@pytest.mark.parametrize(("name", "recompute"), [("codes", True), ("latents", False)])
def test_losses_are_equal_and_graphs_few(
    name: str, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    recipe = recipe_of(name, recompute=recompute)
    tokenizer = toy_tokenizer() if name == "codes" else load_tokenizer(recipe.tokenizer)
    write_images(tmp_path / "images", 24)
    layout, folder = CacheLayout(image_size=16), tmp_path / "cache"
    source = open_source(tmp_path / "images")
    build_cache(tokenizer, source, out=folder, layout=layout, progress=False)
    cache, plain = LatentCache.open(folder), torch.compile
    monkeypatch.setattr(torch, "compile", lambda of: plain(of, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    losses, names = {}, {}
    for compiled in (False, True):
        toy_accelerator()
        out = tmp_path / f"run-{compiled}"
        make_task(recipe, tokenizer).train(cache, out=out, compiled=compiled)
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        losses[compiled] = [line["loss"] for line in lines if "loss" in line]
        checkpoint = out / "checkpoints" / f"step-{STEPS:07d}" / "model.safetensors"
        names[compiled] = list(load_file(checkpoint))
    assert len(losses[True]) == STEPS
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert names[True] == names[False]
    assert 0 < len(graphs) <= 4
    assert not counters["graph_break"]
    torch._dynamo.reset()
