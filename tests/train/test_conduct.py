"""Between two steps: what was learnt is saved before anybody looks, and looks cost little."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import ToyObjective, latest, outcome, toy_settings, toy_train

from unmask.recipes.training import Training
from unmask.train import conduct
from unmask.train.conduct import LookPace, SavePace
from unmask.train.run import Preview


def sheets(out: Path, settings: Training, **more: Any) -> list[tuple[int, str | None]]:
    """The steps at which a run was looked at, and its newest checkpoint at that moment."""
    seen: list[tuple[int, str | None]] = []

    def look(folder: Path, step: int, averaged: bool) -> None:
        newest = latest(out / "checkpoints")
        seen.append((step, newest and newest.name))

    every = {"every": 5, "raw": False, "optional": True, **more}
    toy_train(out, settings, previews=[Preview(look, **every)])
    return seen


def test_a_save_comes_before_a_look(tmp_path: Path) -> None:
    seen = sheets(tmp_path, toy_settings(save_every=10, preview_share=1.0))
    assert [step for step, _ in seen] == [5, 10, 15, 20, 24]
    names = dict(seen)
    assert names[5] == "step-0000005"  # nothing had been saved: all would have been lost
    assert names[10] == "step-0000010"
    assert names[20] == "step-0000020"
    assert names[24] == "step-0000024"


def test_a_save_before_a_look_costs_its_share_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SavePace, "worthwhile", lambda self: False)
    seen = dict(sheets(tmp_path, toy_settings(save_every=10, preview_share=1.0)))
    assert (seen[5], seen[15]) == (None, "step-0000010")


@pytest.mark.parametrize("save_minutes", [0.0, 10.0])
def test_without_a_clock_only_the_steps_that_were_asked_for_are_saved(
    tmp_path: Path, save_minutes: float
) -> None:
    settings = toy_settings(save_every=0, preview_share=1.0, save_minutes=save_minutes, keep=0)
    sheets(tmp_path, settings)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert saved[-1] == "step-0000024"
    assert (len(saved) == 1) == (save_minutes == 0)


def test_looks_that_cost_too_much_are_left_out_but_the_last(tmp_path: Path) -> None:
    def slow(folder: Path, step: int, averaged: bool) -> None:
        taken.append(step)
        time.sleep(0.3)

    taken: list[int] = []
    settings = toy_settings(steps=60)
    for optional, wanted in ((True, [2, 60]), (False, [*range(2, 61, 2)][:3])):
        taken.clear()
        preview = Preview(slow, every=2, raw=False, optional=optional)
        steps = settings if optional else toy_settings(steps=6)
        toy_train(tmp_path / str(optional), steps, previews=[preview])
        assert taken == wanted


@pytest.mark.parametrize(("share", "taken"), [(0.6, [5, 10, 15, 20, 24]), (0.01, [5, 24])])
def test_the_share_decides_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, taken: list[int]
) -> None:
    """By a clock that shows a hundred seconds more whenever it is looked at."""
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(conduct, "LookPace", lambda share: LookPace(share, lambda: next(clock)))
    settings = toy_settings(preview_share=share, save_minutes=0.0)
    assert [step for step, _ in sheets(tmp_path, settings)] == taken


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("much"), MemoryError()])
def test_a_look_that_does_not_fit_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def huge(folder: Path, step: int, averaged: bool) -> None:
        raise error

    preview = Preview(huge, every=10, optional=True)
    objective = ToyObjective()
    toy_train(tmp_path / "run", toy_settings(), previews=[preview], objective=objective)
    said = [line for line in capsys.readouterr().out.splitlines() if "fit into memory" in line]
    assert len(said) == 3
    assert "--training.preview-images" in said[0]
    assert objective.training
    toy_train(tmp_path / "blind", toy_settings())
    assert outcome(tmp_path / "run")[:2] == outcome(tmp_path / "blind")[:2]


def test_lasting_checkpoints_are_made_and_kept(tmp_path: Path) -> None:
    toy_train(tmp_path, toy_settings(steps=40, save_every=8, keep=1, keep_every=15))
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert saved == ["step-0000015", "step-0000030", "step-0000040"]
