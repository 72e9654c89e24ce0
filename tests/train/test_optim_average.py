"""The average: published decays, the recurrence, and whose weights are where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_run import ToyModel

from unmask.recipes.training import Ema
from unmask.train.optim import EmaWeights, ema_decay


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", Ema(warmup="none")),
        ("tensorflow_like", Ema(warmup="inverse")),
        ("crowsonkb_default", Ema(warmup="power")),
        ("crowsonkb_p0_75", Ema(warmup="power", power=0.75)),
    ],
)
def test_maskgit_pytorch_decays(fixtures: Path, name: str, settings: Ema) -> None:
    golden = load_file(fixtures / "maskgit" / "mp_schedules.io.safetensors")
    expected = golden[f"ema_decay/{name}"]
    counts = golden["ema_decay/num_updates"].tolist()
    ours = torch.tensor([ema_decay(settings, n) for n in counts], dtype=expected.dtype)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_unlockmgm_decays(fixtures: Path) -> None:
    golden = load_file(fixtures / "maskgit" / "um_schedules.io.safetensors")
    settings = Ema(decay=0.9999, after_step=5000, warmup="inverse")
    counts = golden["ema_decay/optimization_step"].tolist()
    ours = torch.tensor([ema_decay(settings, n) for n in counts], dtype=torch.float64)
    torch.testing.assert_close(ours, golden["ema_decay/value"], rtol=0, atol=1e-12)


def walk(model: nn.Module, ema: EmaWeights, steps: int) -> list[dict[str, torch.Tensor]]:
    """Move the weights at random; the weights after every step."""
    stream, path = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        for p in model.parameters():
            p.data += torch.randn(p.shape, generator=stream)
        ema.update()
        path.append({k: v.clone() for k, v in model.state_dict().items()})
    return path


@pytest.mark.parametrize("settings", [Ema(decay=0.5, warmup="none"), Ema(), Ema(after_step=2)])
def test_the_recurrence(settings: Ema) -> None:
    model = ToyModel()
    ema = EmaWeights(model, settings)
    expected = model.outer.weight.detach().double()
    for n, weights in enumerate(walk(model, ema, 6), 1):
        decay = ema_decay(settings, n)
        expected = decay * expected + (1 - decay) * weights["outer.weight"].double()
    torch.testing.assert_close(ema.state_dict()["outer.weight"].double(), expected)


def test_copies_until_the_average_begins() -> None:
    model = ToyModel()
    ema = EmaWeights(model, Ema(after_step=5, warmup="none", decay=0.5))
    walk(model, ema, 6)  # averaging begins at update after_step + 2
    assert torch.equal(ema.state_dict()["outer.weight"], model.outer.weight)
    walk(model, ema, 1)
    assert not torch.equal(ema.state_dict()["outer.weight"], model.outer.weight)


def test_frozen_weights_and_buffers_are_the_models_own() -> None:
    model = ToyModel()
    ema = EmaWeights(model, Ema())
    walk(model, ema, 3)
    model.seen += 4
    state = ema.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(state["frozen"], model.frozen)
    assert state["seen"] == 4


def test_swapped_in_comes_back_even_after_an_error() -> None:
    model = ToyModel()
    ema = EmaWeights(model, Ema())
    walk(model, ema, 3)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    averaged = {k: v.clone() for k, v in ema.state_dict().items()}

    def look_and_fail() -> None:
        with ema.swapped_in() as same:
            assert same is model
            for name, value in model.state_dict().items():
                assert torch.equal(value, averaged[name]), name
            assert not torch.equal(model.outer.weight, own["outer.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look_and_fail()
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]), name


def test_half_precision_weights_are_averaged_in_float32() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data.fill_(1.0)
    ema = EmaWeights(model, Ema(decay=0.999, warmup="none"))
    model.weight.data.fill_(2.0)
    ema.update()  # a change of 1/1000 is below the resolution of bfloat16 at 1
    assert ema.state_dict()["weight"].item() == pytest.approx(1.001, abs=1e-6)


def test_tied_weights_are_averaged_once_and_saved_under_both_names() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(3, 2), "out": nn.Linear(2, 3, bias=False)})
    model["out"].weight = model["table"].weight
    ema = EmaWeights(model, Ema())
    walk(model, ema, 2)
    state = ema.state_dict()
    assert len(ema.shadow) == 1
    assert torch.equal(state["table.weight"], state["out.weight"])


def test_a_loaded_average_continues_bit_for_bit() -> None:
    one, two = ToyModel(), ToyModel()
    first, second = EmaWeights(one, Ema()), EmaWeights(two, Ema())
    walk(one, first, 4)
    two.load_state_dict(one.state_dict())
    second.load_state_dict(first.state_dict(), updates=first.updates)
    walk(one, first, 3)
    walk(two, second, 3)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
