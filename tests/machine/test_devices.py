"""The device that computes is one that can be used, whatever torch was built for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_system import toy_pipeline

import unmask
from unmask.cli import main
from unmask.errors import InputError
from unmask.machine.devices import find_accelerator, resolve_device


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, built_for: str | None, count: int, raises: bool = False
) -> None:
    """A torch built for an accelerator, on a machine with so many of them."""

    def current() -> torch.device | None:
        """As in torch 2.6, which takes no argument and may refuse to name what is not there."""
        if raises:
            raise RuntimeError("Cannot access accelerator device when none is available.")
        return None if built_for is None else torch.device(built_for)

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)


@pytest.mark.parametrize("raises", [False, True])
def test_a_torch_built_for_cuda_computes_on_the_cpu_without_a_driver(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    pretend(monkeypatch, built_for="cuda", count=0, raises=raises)
    assert find_accelerator() is None
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"'cuda' is not available here.*no accelerator"):
        resolve_device("cuda")


def test_commands_run_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    pretend(monkeypatch, built_for="cuda", count=0)
    words = f"sample {tmp_path / 'model'} --per-class 1 --out {tmp_path / 'made'}"
    assert main(words.split()) == 0
    assert unmask.load(tmp_path / "model", device="auto").model is not None


@pytest.mark.parametrize(
    ("asked", "rank", "got"),
    [
        ("auto", None, "cuda"),
        ("auto", "0", "cuda:0"),
        ("auto", "3", "cuda:3"),
        ("auto", "5", "cuda:1"),
        ("cuda", "2", "cuda:2"),
        ("cuda:1", "2", "cuda:1"),
        ("cpu", "2", "cpu"),
    ],
)
def test_each_process_gets_its_own(
    monkeypatch: pytest.MonkeyPatch, asked: str, rank: str, got: str
) -> None:
    pretend(monkeypatch, built_for="cuda", count=4)
    if rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert resolve_device(asked) == torch.device(got)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:4", "cpu:1", "mps", "cuda:-1", "auto:0", "meta"])
def test_other_names_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, built_for="cuda", count=4)
    with pytest.raises(InputError, match="is not available here") as refusal:
        resolve_device(name)
    assert "\n" not in str(refusal.value)


def test_a_pipeline_stays_on_the_cpu_unless_told(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    pipeline = unmask.load(tmp_path / "model")
    assert next(pipeline.model.parameters()).device.type == "cpu"
