"""Arithmetic that is asked for is what computes, and nothing of it is left behind."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_latents import latent_pipeline
from toy_system import toy_pipeline

import unmask
from unmask.cli import main
from unmask.errors import InputError
from unmask.evaluate.generated import Generated
from unmask.evaluate.options import EvaluationOptions
from unmask.film import unmasking
from unmask.generation import compute_of
from unmask.machine import compute
from unmask.machine.compute import Compute, Precision

SYSTEMS = [f"fashion-{name}" for name in ("maskgit", "selfguidance", "mage", "mar", "emigm")]


def made(pipeline: unmask.Pipeline, precision: Precision | None, *, batch_size: int = 32) -> Tensor:
    """``(4, L[, C])`` tokens."""
    labels = [0, 1, 2, 0] if pipeline.model.classes else None
    plan = replace(pipeline.plan, steps=min(4, pipeline.plan.steps))
    options = {"compute": precision, "batch_size": batch_size, "plan": plan}
    return pipeline.tokens(labels, seeds=range(4), **options).tokens  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SYSTEMS)
def test_bf16_makes_the_shipped_systems_images_nearly_and_whatever_the_batch(name: str) -> None:
    pipeline = unmask.load(name)
    exact, rounded = made(pipeline, "float32"), made(pipeline, "bf16")
    assert not torch.equal(exact, rounded)
    assert exact.dtype == rounded.dtype
    if exact.is_floating_point():
        assert (exact - rounded).abs().mean() < 0.02
    else:
        assert (exact == rounded).float().mean() > 0.5
    torch.testing.assert_close(made(pipeline, "bf16", batch_size=3), rounded, rtol=0, atol=1e-5)
    assert torch.equal(made(pipeline, "bf16"), rounded)
    assert torch.equal(made(pipeline, None), exact)  # the weights are as they were


def test_fp16_is_nearer_than_bf16_and_leaves_the_canvas_alone() -> None:
    pipeline = latent_pipeline()
    for weight in pipeline.model.head.parameters():
        weight.data *= 0.3  # else its states grow beyond what fp16 can hold
    exact, half, brain = (made(pipeline, name) for name in ("float32", "fp16", "bf16"))
    assert 0 < (half - exact).abs().mean() < (brain - exact).abs().mean()
    assert half.dtype == torch.float32


def test_what_is_too_large_for_fp16_says_so() -> None:
    pipeline = toy_pipeline()
    pipeline.model.head.out.weight.data *= 1e6
    made(pipeline, "bf16")
    with pytest.raises(InputError, match=r"too large for fp16 .*, or compute in bf16"):
        made(pipeline, "fp16")


def test_the_pipelines_own_arithmetic_is_that_of_films_too() -> None:
    pipeline = latent_pipeline()
    plain = unmasking(pipeline, ["cat"], seeds=3)
    wanted = made(pipeline, "bf16")
    pipeline.compute = "bf16"
    assert torch.equal(made(pipeline, None), wanted)
    assert not torch.equal(made(pipeline, "float32"), wanted)
    assert not torch.equal(unmasking(pipeline, ["cat"], seeds=3), plain)


def test_autocast_around_a_call_is_its_arithmetic() -> None:
    pipeline = latent_pipeline()
    wanted, exact = made(pipeline, "bf16"), made(pipeline, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_of(pipeline).precision == "bf16"
        assert torch.equal(made(pipeline, None), wanted)
        assert torch.equal(made(pipeline, "float32"), exact)


def test_a_twin_shares_all_but_the_matrices() -> None:
    model = toy_pipeline().model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    twin = Compute.of(model, "bf16").twin(model)
    own = dict(model.named_parameters())
    for name, weight in twin.named_parameters():
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        assert (weight is own[name]) != linear
        assert weight.dtype == (torch.bfloat16 if linear else torch.float32)
    assert all(torch.equal(weight, before[name]) for name, weight in own.items())
    assert Compute.of(model).twin(model) is model


def test_no_region_is_left_open_between_steps() -> None:
    seen: list[bool] = []
    toy_pipeline().tokens(
        ["cat"], compute="bf16", observe=lambda step: seen.append(torch.is_autocast_enabled("cpu"))
    )
    assert seen == [False] * 5


def test_arithmetic_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = toy_pipeline()
    with pytest.raises(InputError, match=r"compute=tf32 needs an NVIDIA GPU .* on cpu; give"):
        pipeline.tokens(["cat"], compute="tf32")
    pipeline.save_pretrained(tmp_path / "model")
    words = f"sample {tmp_path / 'model'} --per-class 1 --out {tmp_path / 'made'} --compute"
    assert main([*words.split(), "tf32"]) == 2
    assert "compute=tf32" in capsys.readouterr().err
    assert main([*words.split(), "bf16", "--format", "png"]) == 0
    assert "s an image in bf16" in capsys.readouterr().out
    assert main([*words.split(), "float32", "--format", "png"]) == 2
    assert "compute was 'bf16' and is None now" in capsys.readouterr().err


def test_a_type_that_autocast_drops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on MPS: torch warns, and would compute in float32."""

    def warning(kind: str, dtype: torch.dtype) -> None:
        warnings.warn(f"{kind} autocast is disabled for {dtype}", stacklevel=1)

    monkeypatch.setattr(torch, "autocast", warning)
    with pytest.raises(InputError, match="compute=fp16 is not possible on cpu with torch"):
        Compute.of(toy_pipeline().model, "fp16")


def test_a_gpu_computes_in_bf16_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {torch.device("cuda"): True, torch.device("mps"): False}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for device, native in asked.items():
        assert compute._native_bf16(device) == native
    assert not compute._native_bf16(torch.device("cpu"))


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_tf32_leaves_the_global_words_as_they_were(before: str, newer: bool) -> None:
    matmul = torch.backends.cuda.matmul
    if newer and not hasattr(matmul, "fp32_precision"):
        pytest.skip("a torch of one name only")

    def state() -> list[object]:
        found: list[object] = [getattr(matmul, "fp32_precision", None)]
        for ask in (torch.get_float32_matmul_precision, lambda: matmul.allow_tf32):
            try:
                found.append(ask())
            except RuntimeError:
                found.append("unreadable")
        return found

    clean = state()
    try:
        torch.set_float32_matmul_precision(before)
        if newer:
            matmul.fp32_precision = "ieee" if before != "highest" else "tf32"
        was = state()
        for tf32 in (True, False):
            with suppress(KeyError), compute._float32_products(tf32=tf32):
                name = "fp32_precision" if newer else "allow_tf32"
                wanted = {"fp32_precision": ("ieee", "tf32"), "allow_tf32": (False, True)}[name]
                assert getattr(matmul, name) == wanted[tf32]
                raise KeyError  # what fails inside leaves nothing either
            assert state() == was
    finally:
        torch.set_float32_matmul_precision("highest")
        if clean[0] is not None:
            matmul.fp32_precision = clean[0]
    assert state() == clean


def test_an_evaluation_says_it_and_older_folders_go_on() -> None:
    pipeline = toy_pipeline()
    plain, exact, rounded = (
        Generated.of_pipeline(pipeline, EvaluationOptions(compute=name), pipeline.plan)
        for name in (None, "float32", "bf16")
    )
    assert plain.identity == exact.identity  # as before there was a choice
    assert "computed in" not in plain.identity
    assert rounded.identity == f"{plain.identity}, computed in bf16"
    assert re.search("computed in bf16$", rounded.notes[-1])
    assert re.search("computed in float32$", plain.notes[-1])
    images = next(iter(rounded.sets[0].between(0, 4))).images
    same = pipeline([0, 1, 2, 0], seeds=range(4), compute="bf16").pixels
    assert torch.equal(images, (255 * same + 0.5).to(torch.uint8))


def test_files_have_no_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compute=bf16 is of a model's network"):
        Generated.of_files(tmp_path, EvaluationOptions(compute="bf16"))
