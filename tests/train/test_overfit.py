"""The verdict on one batch, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import ToyBatches, ToyObjective, log_lines, toy_accelerator, toy_settings, toy_train

from unmask.errors import InputError
from unmask.train.overfit import WORKS_BELOW, Verdict, overfit_one_batch


def verdict(out: Path, **changes: object) -> Verdict:
    """The toy run on its first batch."""
    settings = toy_settings(save_every=0, **changes)
    return overfit_one_batch(
        ToyObjective(),
        ToyBatches(settings),
        settings=settings,
        out=out,
        config={"training": {"lr": settings.lr}},
        accelerator=toy_accelerator(),
    )


def test_a_run_that_learns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = verdict(tmp_path, steps=150, lr=0.1)
    assert found.works
    assert found.result.last_loss < WORKS_BELOW * found.result.first_loss
    assert capsys.readouterr().out.splitlines()[-1] == found.line
    assert found.line.startswith("the run works: loss")
    # constant from the first step on, whatever the schedule says
    assert {line["lr"] for line in log_lines(tmp_path)} == {0.1}


def test_a_run_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    found = verdict(tmp_path, steps=20, lr=1e-7)
    assert not found.works
    assert found.result.last_loss > WORKS_BELOW * found.result.first_loss
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("the run does NOT work yet")
    assert "training.lr" in line


def test_its_folder_takes_no_ordinary_run(tmp_path: Path) -> None:
    verdict(tmp_path, steps=3)
    with pytest.raises(InputError, match="overfit_one_batch"):
        toy_train(tmp_path, config={"training": {"lr": toy_settings().lr}})
