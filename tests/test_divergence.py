"""Latents that ran away are noticed, and the likely cause is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_latents import DROPS, latent_model, latent_pipeline
from toy_system import toy_pipeline

from unmask.cli import main
from unmask.decode import Plan, blank_canvas, decode
from unmask.divergence import LIMIT, divergence
from unmask.draws import Draws, keyed_generator
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.model import MaskedModel, initialize
from unmask.orders import RandomOrder

BY_COUNT, BY_STRIDE = DiffusionDraw(respacing="25"), DiffusionDraw(respacing="ddim25")
SOLVER = DiffusionDraw(solver="dpm-solver", respacing="14")


def drawn(model: MaskedModel, draw: DiffusionDraw) -> Tensor:
    plan = Plan(steps=4, order=RandomOrder(), draw=draw)
    canvas = blank_canvas(4, 16, channels=6)
    *_, last = decode(model, torch.tensor([0, 1, 2, 0]), plan, Draws(range(4)), canvas)
    return last.tokens


def size(latents: Tensor) -> float:
    return latents.square().mean().sqrt().item()


def test_random_weights_explode_from_step_999_on_and_nowhere_else() -> None:
    model = DROPS.build().eval()
    initialize(model, keyed_generator("weights"))
    for weight in (model.head.out.weight, model.head.out.bias):  # which start at zero
        weight.data = 0.05 * torch.randn(weight.shape, generator=keyed_generator("out"))
    assert size(drawn(model, BY_COUNT)) > 1000
    assert size(drawn(model, BY_STRIDE)) < 50


def nearly_right(model: MaskedModel, monkeypatch: pytest.MonkeyPatch) -> MaskedModel:
    """A head that is 2 % off where all is noise (which then is x), and whose norms bound it."""

    def predict(x: Tensor, y: Tensor, *, outputs: int) -> Tensor:
        noise = (0.98 * x.clamp(-4, 4)).expand(*y.shape[:-1], -1)
        return torch.cat([noise, torch.zeros_like(noise)], -1)[..., :outputs]

    monkeypatch.setattr(model.head, "predict", predict)
    return model


def test_two_percent_of_error_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nearly_right(latent_model(DROPS), monkeypatch)
    message = divergence(drawn(model, BY_COUNT), BY_COUNT)
    assert message is not None
    assert "\n" not in message
    assert "begins at step 999" in message
    assert "20,291 times" in message
    assert "'ddim25'" in message
    assert "'dpm-solver'" in message
    for draw in (BY_STRIDE, SOLVER):
        assert divergence(drawn(model, draw), draw) is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e30])
def test_what_is_not_finite_counts(wrong: float) -> None:
    latents = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert divergence(latents, BY_STRIDE) is None
    latents[1, 2, 0] = wrong
    message = divergence(latents, BY_STRIDE)
    assert message is not None
    assert "has not learnt enough" in message
    assert "999" not in message, "another cause is named where that step is not taken"


def test_the_limit_follows_the_data() -> None:
    latents = torch.full((1, 4, 3), 2.0)
    assert divergence(latents, BY_STRIDE, usual=2 / LIMIT) is None
    assert divergence(latents, BY_STRIDE, usual=1.9 / LIMIT) is not None


def test_of_codes_there_is_nothing_to_say() -> None:
    assert divergence(torch.full((2, 4), 1023), CategoricalDraw()) is None


@pytest.mark.parametrize("respacing", ["", "100", "10,15,20"])
def test_every_respacing_that_keeps_step_999_is_named(respacing: str) -> None:
    for solver in ("ddpm", "ddim"):
        draw = replace(BY_COUNT, solver=solver, respacing=respacing)
        assert "step 999" in str(divergence(torch.full((1, 1, 1), 99.0), draw))


def test_unmask_sample_says_it_and_has_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pipeline = latent_pipeline()
    for parameter in pipeline.model.head.parameters():
        parameter.data *= 0.1
    pipeline.save_pretrained(tmp_path / "model")
    words = ["sample", str(tmp_path / "model"), "--per-class", "1", "--device", "cpu"]
    words += ["--format", "tokens", "--guidance-scale", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--respacing", "25"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert len(said) == 1
    assert "--respacing" in said[0]
    toy_pipeline().save_pretrained(tmp_path / "codes")
    words[1] = str(tmp_path / "codes")
    assert main([*words, "--solver", "ddim"]) == 2
    assert "this plan's draw is CategoricalDraw" in capsys.readouterr().err
    assert main(words) == 0
    assert not capsys.readouterr().err
