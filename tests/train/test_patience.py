"""What one process does for long holds the others in no exchange that gives up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gloo import joined
from toy_run import log_lines, toy_settings, toy_train

from unmask.machine.processes import launched
from unmask.train import run
from unmask.train.run import Preview

PLACES = ["look", "save", "sheet", "export"]
CASES = [
    pytest.param(5.0, 7.0, ["look"], id="quick"),
    pytest.param(5.0, 20.0, PLACES, marks=pytest.mark.slow, id="long"),
]


@pytest.mark.parametrize(("patience", "work", "places"), CASES)
def test_a_training_outlives_long_work_of_one_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: float,
    work: float,
    places: list[str],
) -> None:
    """Looks in between and at the end, a checkpoint, the model of the last step."""
    write = run.write_checkpoint

    def takes_long(place: str) -> None:
        with (tmp_path / "log").open("a") as file:
            file.write(f"{place} ")
        time.sleep(work if place in places else 0)

    def slow_write(*args: object, **more: object) -> Path:
        takes_long("save")
        return write(*args, **more)  # type: ignore[arg-type]

    def sheet(folder: Path, step: int, averaged: bool) -> None:
        takes_long("look" if step < 8 else "sheet")

    def export(folder: Path, step: int, averaged: bool) -> None:
        takes_long("export")

    monkeypatch.setattr(run, "write_checkpoint", slow_write)
    looks = [Preview(sheet, every=4, raw=False, optional=True), Preview(export, raw=False)]
    settings = toy_settings(steps=8, save_every=0, save_minutes=0, log_every=1, preview_share=1.0)

    def body(rank: int) -> None:
        launched()  # which makes the group, before the toy accelerator does with more patience
        toy_train(tmp_path / "run", settings, previews=looks)

    assert joined(2, body, patience=patience) == [0, 0]
    assert (tmp_path / "log").read_text().split() == PLACES
    assert len(log_lines(tmp_path / "run")) == 8
