"""What a training would ask of GPUs, beside real runs of small ones and counts of large ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from toy_system import TOY

from unmask import estimate as module
from unmask.cli import main
from unmask.commands.estimate import GpuName
from unmask.errors import InputError
from unmask.estimate import GPUS, Activations, Estimate, Pass, encoding, estimate, sampling_flop
from unmask.generation import generate_tokens
from unmask.pipeline import Pipeline
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.published import PUBLISHED
from unmask.train.generator import objective_of

GB = 1e9


def real_pass(recipe: Recipe, images: int, *, recompute: bool = False) -> tuple[int, float]:
    """Bytes kept and operations of a micro-batch that is computed."""
    model = recipe.network.build().train()
    objective = objective_of(recipe, model)
    if recompute:
        module.recompute_blocks(model)
    own = {weight.untyped_storage().data_ptr() for weight in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    batch = module._batch(recipe, images)
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(pack, lambda x: x):
        loss = objective(batch)["loss"]
        loss.backward()
    size = sum(storage.nbytes() for place, storage in kept.items() if place not in own)
    return size, counter.get_total_flops()


@pytest.mark.parametrize("name", ["fashion-maskgit", "fashion-mage", "fashion-mar"])
def test_counts_are_those_of_a_real_micro_batch(name: str) -> None:
    """Counted before the real network is built, which must not inherit anything from counting."""
    recipe = get(name)
    counted = estimate(recipe)
    model = recipe.network.build()
    assert counted.parameters == sum(p.numel() for p in objective_of(recipe, model).parameters())
    kept, flop = real_pass(recipe, module.MORE)
    assert counted.kept.activations.of(module.MORE) == pytest.approx(kept)
    assert counted.kept.flop * module.MORE == pytest.approx(flop, rel=1e-6)
    less, more = real_pass(recipe, module.MORE, recompute=True)
    assert counted.recomputed.activations.of(module.MORE) == pytest.approx(less)
    assert counted.recomputed.flop * module.MORE == pytest.approx(more, rel=1e-6)
    assert less < kept
    assert more > flop


COUNTED = {  # megabytes an image at 8 images, kept and recomputed, on another implementation
    "mar-base": (567, 45),
    "mar-large": (1014, 70),
}


@pytest.mark.parametrize("name", ["mar-base", pytest.param("mar-large", marks=pytest.mark.slow)])
def test_published_sizes(name: str) -> None:
    counted = estimate(get(name))
    found = (counted.kept, counted.recomputed)
    assert tuple(round(p.activations.of(8) / 8e6) for p in found) == COUNTED[name]
    fixed = sum(counted.on(8).values())
    assert fixed == pytest.approx(24 * counted.parameters, rel=1e-3)  # five copies and the buckets
    assert counted.fit(32, GPUS["h100"].memory).accumulate == 1  # as MAR was trained


def made(kept: float, recomputed: float, *, batch: int, held: float = 4 * GB) -> Estimate:
    """An estimate of round numbers."""
    recipe = replace(TOY, training=replace(TOY.training, batch_size=batch))
    parts = {"gradients": int(held / 4), "weights": int(held * 3 / 4)}
    passes = (Pass(Activations(0, each), 1.0) for each in (kept, recomputed))
    return Estimate(recipe, 1, parts, *passes)


def test_a_batch_is_cut_until_it_fits() -> None:
    counted = made(1 * GB, 0.1 * GB, batch=256)
    assert counted.on(1) == {"gradients": GB, "weights": 3 * GB}
    assert counted.on(8) == {"gradients": GB, "weights": 3 * GB, "exchange": GB}
    whole = counted.fit(8, 80 * GB)  # 32 images and 5 GB fit into nine tenths of 80
    assert (whole.recompute, whole.accumulate, whole.images) == (False, 1, 32)
    assert whole.memory == pytest.approx(37 * GB)
    half = counted.fit(8, 24 * GB)  # 16 images and 5 GB
    assert (half.recompute, half.accumulate, half.images) == (False, 2, 16)
    small = counted.fit(8, 12 * GB)  # 5 images only, or 32 that are computed twice
    assert (small.recompute, small.accumulate, small.images) == (True, 1, 32)


def test_what_fits_nowhere_is_refused() -> None:
    counted = made(1 * GB, 0.1 * GB, batch=256)
    with pytest.raises(InputError, match=r"256 does not divide among 3 GPUs; choose a multiple"):
        counted.fit(3, 80 * GB)
    with pytest.raises(InputError, match=r"needs 5\.1 GB for one image a GPU, and 4\.5 GB"):
        counted.fit(8, 5 * GB)


@pytest.mark.parametrize("name", ["fashion-maskgit", "fashion-selfguidance", "fashion-emigm"])
def test_sampling_is_counted_as_it_is_done(name: str) -> None:
    recipe = get(name)
    found = sampling_flop(recipe, recipe.plan)
    model = recipe.network.build().eval()
    pipeline = Pipeline(recipe, model, None)
    labels = [0] * module.MORE
    with FlopCounterMode(display=False) as counter:
        list(generate_tokens(pipeline, labels, seeds=range(module.MORE)))
    most = 0.03 if model.drops else 1e-6  # up to eight known tokens are counted as one number
    assert found * module.MORE == pytest.approx(counter.get_total_flops(), rel=most)


def test_bytes_of_a_cache() -> None:
    """ImageNet's moments of KL-16 take 84 GB, its codes 1.3 GB."""
    latents = encoding(get("mar-base"), PUBLISHED["kl16"].network.build)
    assert latents.bytes == 2 * 16 * 16 * 16 * 4
    assert latents.flop == pytest.approx(137.9e9, rel=1e-3)
    recipe = get("mage-base")
    assert encoding(recipe, PUBLISHED["mage-vqgan"].network.build).bytes == 256 * 2


def test_every_gpu_can_be_named() -> None:
    assert tuple(GPUS) == GpuName.__args__  # type: ignore[attr-defined]
    assert all(gpu.memory >= 24 * GB and gpu.bf16 > gpu.float32 for gpu in GPUS.values())


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "fashion-maskgit", "--gpus", "4", "--gpu", "a100", "--images", "9000"]
    assert main([*words, "--utilisation", "0.2", "0.4", "--samples", "100"]) == 0
    told = capsys.readouterr().out
    assert "fashion-maskgit on 4 x a100, 19.5 TFLOP/s each in float32" in told
    assert "1,400 steps of 32 images: 4.982 epochs of 9,000 images" in told
    assert "GPU hours to sample" in told
    assert [line.split()[0] for line in told.splitlines() if "%  " in line] == ["20%", "40%"]
    assert main(["estimate", "fashion-maskgit", "--gpus", "5"]) == 2
    assert "does not divide among 5 GPUs" in capsys.readouterr().err
    assert main(["estimate", "fashion-maskgit", "--gpu", "abacus"]) == 2
    assert "abacus" in capsys.readouterr().err
