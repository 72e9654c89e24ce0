"""Variables of launchers and containers change no number unseen: undone, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from toy_run import ToyBatches, ToyObjective, log_lines, toy_settings, toy_train

from unmask.errors import InputError, SaidError
from unmask.machine import environment
from unmask.machine.processes import launched
from unmask.train.loop import make_accelerator, train

UNDONE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
    "ACCELERATE_DYNAMO_MODE": "max-autotune",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "true",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "true",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "true",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "ACCELERATE_DEBUG_MODE": "1",
}


@pytest.fixture
def fresh() -> Iterator[None]:
    """accelerate's shared states as in a new process, and again afterwards."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


def losses(out: Path) -> list[dict]:
    settings = toy_settings(steps=4, log_every=1, save_every=0, tracker="none")
    batches = ToyBatches(settings)
    train(ToyObjective(), batches, settings=settings, out=out, config={"n": 1})
    return log_lines(out)


@pytest.mark.parametrize("name", UNDONE)
@pytest.mark.usefixtures("fresh")
def test_a_launchers_variable_changes_no_number(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = losses(tmp_path / "alone")
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
    monkeypatch.setenv(name, UNDONE[name])
    assert losses(tmp_path / "told") == alone
    assert {"loss", "grad_norm"} <= alone[0].keys()


def test_the_variables_would_have_an_effect(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the arguments accelerate takes them: the test above can fail."""
    for name, value in UNDONE.items():
        monkeypatch.setenv(name, value)
    told = Accelerator(cpu=True)
    assert told.gradient_accumulation_steps == 8
    assert told.mixed_precision == "bf16"
    assert told.state.dynamo_plugin.backend.value == "EAGER"


@pytest.mark.parametrize("name", environment.ANOTHER_TRAINING)
@pytest.mark.usefixtures("fresh")
def test_another_kind_of_training_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "true")
    for begin in (launched, lambda: make_accelerator(toy_settings(tracker="none"), tmp_path)):
        with pytest.raises(InputError, match=f"{name}=true asks for") as caught:
            begin()
        assert "\n" not in str(caught.value)
    monkeypatch.setenv(name, "false")
    launched()


@pytest.mark.usefixtures("fresh")
def test_a_network_that_would_be_cut_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(AcceleratorState, "fsdp_plugin", object(), raising=False)
    with pytest.raises(InputError, match=r"by FSDP, which .* fits a GPU of 80 GB whole"):
        environment.check_arithmetic(accelerator)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "1")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SaidError, match="every published size fits a GPU of 80 GB whole"):
        environment.check_launcher()  # which the first process says for all


@pytest.mark.usefixtures("fresh")
def test_an_accelerator_that_divides_the_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gradient_accumulation_steps=4"):
        toy_train(
            tmp_path / "run", accelerator=Accelerator(cpu=True, gradient_accumulation_steps=4)
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", environment.LOWER_PRECISION["cpu"])
@pytest.mark.usefixtures("fresh")
def test_a_lower_precision_below_torch_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "BF16")
    with pytest.raises(InputError, match=f"{name}=BF16 changes how cpu computes"):
        losses(tmp_path)
    monkeypatch.setenv(name, "strict")
    assert losses(tmp_path)


class OnCuda:
    """What is asked of an accelerator with a GPU."""

    gradient_accumulation_steps, is_main_process, device = 1, True, torch.device("cuda")
    state = None


def test_what_lets_a_gpu_round_is_set_aside_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setenv(environment.TF32, "1")
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        environment.check_arithmetic(OnCuda)
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert "set aside" in capsys.readouterr().out
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(InputError, match="NVIDIA_TF32_OVERRIDE=1"):
        environment.check_arithmetic(OnCuda)
