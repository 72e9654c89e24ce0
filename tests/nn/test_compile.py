"""What decoding runs is what a compiler sees: whole graphs, few of them, the same images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from toy_latents import LATENT_TOY, latent_pipeline
from toy_system import toy_pipeline

from unmask.cli import main
from unmask.generation import compute_of
from unmask.pipeline import Pipeline, load

FLAT = replace(LATENT_TOY.network, depth=1, decoder_depth=1, head_depth=1)  # quick to trace


def flat_pipeline() -> Pipeline:
    return latent_pipeline(replace(LATENT_TOY, network=FLAT))


SYSTEMS: dict[str, Callable[[], Pipeline]] = {"codes": toy_pipeline, "latents": flat_pipeline}
MOST = {"codes": 2, "latents": 5}
"""Graphs of one arithmetic: of latents, the network that keeps no token, one and more, and the head
with its variance or without."""


class Backend:
    """Runs what it is given, and counts it."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def tokens(pipeline: Pipeline, size: int, compute: Any = None) -> Tensor:
    return pipeline.tokens([0, 1, 2, 0, 1], seeds=range(5), batch_size=size, compute=compute).tokens


@pytest.mark.parametrize("system", SYSTEMS)
def test_few_whole_graphs_serve_every_batch_and_make_the_same_images(system: str) -> None:
    pipeline, backend = SYSTEMS[system](), Backend()
    wanted = tokens(pipeline, 5), tokens(pipeline, 5, "bf16")
    pipeline.model.compile(backend=backend)
    for size in (5, 3):
        torch.testing.assert_close(tokens(pipeline, size), wanted[0], rtol=1e-4, atol=1e-4)
    assert 0 < backend.graphs <= MOST[system]
    assert str(compute_of(pipeline)) == "float32, compiled"
    for _ in range(2):  # each call has a twin of its own
        torch.testing.assert_close(tokens(pipeline, 5, "bf16"), wanted[1], rtol=1e-4, atol=1e-4)
    assert backend.graphs <= 2 * MOST[system]
    assert not counters["graph_break"]
    pipeline.model.compile_by(None)
    assert str(compute_of(pipeline)) == "float32"


def test_a_network_that_torch_wrapped_is_compiled_where_it_runs(tmp_path: Path) -> None:
    pipeline, backend = flat_pipeline(), Backend()
    wanted, names = tokens(pipeline, 5), list(pipeline.model.state_dict())
    inner = pipeline.model
    pipeline.model = torch.compile(pipeline.model, backend=backend, dynamic=True)
    assert pipeline.model is inner
    torch.testing.assert_close(tokens(pipeline, 5), wanted, rtol=1e-4, atol=1e-4)
    assert 0 < backend.graphs <= MOST["latents"]
    assert list(pipeline.model.state_dict()) == names
    pipeline.save_pretrained(tmp_path / "model")
    assert list(load(tmp_path / "model").model.state_dict()) == names


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights() -> None:
    pipeline = toy_pipeline()
    pipeline.model.compile(backend=Backend())
    pipeline.model = copy.deepcopy(pipeline.model)
    before = tokens(pipeline, 5)
    for weight in pipeline.model.parameters():
        weight.data *= 0.5
    assert not torch.equal(tokens(pipeline, 5), before)


def test_a_compiler_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(graph: object, examples: object) -> None:
        raise RuntimeError("no g++ here")

    toy_pipeline().save_pretrained(tmp_path / "model")
    plain = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda of, **named: plain(of, **{"backend": broken} | named)
    )
    words = f"sample {tmp_path / 'model'} --per-class 1 --out {tmp_path / 'made'} --compile"
    assert main(words.split()) == 2
    assert "torch.compile failed (BackendCompilerFailed: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_inductor_makes_the_same_images(system: str) -> None:
    pipeline = SYSTEMS[system]()
    wanted = tokens(pipeline, 5)
    pipeline.model.compile()
    torch.testing.assert_close(tokens(pipeline, 5), wanted, rtol=1e-3, atol=1e-3)
    assert not counters["graph_break"]
