"""Learning rates against the published schedules; parameter groups by their law."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_run import ToyModel, toy_settings

from unmask.recipes.training import Training
from unmask.train.optim import (
    learning_rate,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("name", "schedule", "warmup"),
    [
        ("constant", "constant", 0),
        ("constant_warmup", "constant", 6),
        ("cosine_warmup", "cosine", 6),
        ("linear_warmup", "linear", 6),
    ],
)
def test_maskgit_pytorch_rates(fixtures: Path, name: str, schedule: str, warmup: int) -> None:
    golden = load_file(fixtures / "maskgit" / "mp_schedules.io.safetensors")[f"lr/{name}"]
    settings = Training(steps=20, schedule=schedule, warmup_steps=warmup, lr=1e-4)
    ours = torch.tensor(
        [learning_rate(settings, k) for k in range(len(golden))], dtype=golden.dtype
    )
    torch.testing.assert_close(ours, golden, rtol=0, atol=1e-12)


def test_unlockmgm_rates_within_its_run(fixtures: Path) -> None:
    golden = load_file(fixtures / "maskgit" / "um_schedules.io.safetensors")
    expected = golden["lr/cosine_with_restarts_as_run"][:50]
    settings = Training(steps=50, schedule="cosine", warmup_steps=5, lr=1e-4)
    ours = torch.tensor([learning_rate(settings, k) for k in range(50)], dtype=expected.dtype)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_one_group_decays_everything_trainable() -> None:
    model = ToyModel()
    (group,) = parameter_groups(model, toy_settings(weight_decay=0.3))
    assert group["weight_decay"] == 0.3
    assert {id(p) for p in group["params"]} == {
        id(p) for name, p in model.named_parameters() if name != "frozen"
    }


def test_two_groups_spare_vectors() -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    settings = toy_settings(weight_decay=0.3, decay_only_matrices=True)
    decayed, spared = parameter_groups(model, settings)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 4), (2, 4)]
    assert [tuple(p.shape) for p in spared["params"]] == [(4,), (4,), (2,)]
    only_vectors = parameter_groups(nn.LayerNorm(4), settings)
    assert [group["weight_decay"] for group in only_vectors] == [0.0]


def test_the_rate_reaches_every_group() -> None:
    optimizer = make_optimizer(ToyModel(), toy_settings(decay_only_matrices=True))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_a_device_without_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate 0 of a warm-up leaves the weights alone, decay included, in either kernel."""
    real = torch.optim.AdamW

    def refuse(*args: object, fused: bool = False, **kwargs: object) -> torch.optim.AdamW:
        if fused:
            raise RuntimeError("`fused=True` requires all the params to be on supported devices")
        return real(*args, **kwargs)

    fused = make_optimizer(ToyModel(), toy_settings())
    monkeypatch.setattr("unmask.train.optim.AdamW", refuse)
    fallback = make_optimizer(ToyModel(), toy_settings())
    assert fused.defaults["fused"]
    assert not fallback.defaults["fused"]
    for optimizer in (fused, fallback):
        for rate in (0.0, 0.01):
            set_learning_rate(optimizer, rate)
            params = optimizer.param_groups[0]["params"]
            before = [p.detach().clone() for p in params]
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
            same = [torch.equal(p, b) for p, b in zip(params, before, strict=True)]
            assert all(same) if rate == 0 else not any(same)
    for one, two in zip(
        fused.param_groups[0]["params"], fallback.param_groups[0]["params"], strict=True
    ):
        torch.testing.assert_close(one, two)
