"""On a device that is none: no operation mixes devices, and no step waits or copies in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pretend_device
import pytest
import torch
from pretend_device import MIXED, PAGEABLE, PINNED, UNSAFE, WAIT
from pretend_work import SYSTEMS

from unmask.draws import pins, sent

Told = dict[str, dict[str, dict[str, int]]]
needs_a_backend_in_python = pytest.mark.skipif(
    not pretend_device.AVAILABLE, reason="this torch has no devices written in Python"
)


def told(work: str, folder: Path) -> Told:
    """What was noted in a process of its own."""
    script = Path(__file__).parent / "toys" / "pretend_work.py"
    done = subprocess.run(
        [sys.executable, script, work, folder],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: Told = json.loads((folder / "told.json").read_text())
    seen = {kind: sum(places.values()) for kind, places in found.pop("faults", {}).items()}
    assert seen in ({}, {UNSAFE: 1, PAGEABLE: 2, PINNED: 1, MIXED: 1, WAIT: 3}), "it sees faults"
    assert not {name: kinds for name, kinds in found.items() if kinds.keys() & {MIXED, UNSAFE}}
    return found


@needs_a_backend_in_python
def test_a_decoding_step_neither_waits_nor_copies_from_pageable_memory(tmp_path: Path) -> None:
    """Its random numbers arrive from pinned memory; a batch waits once before and once after."""
    found = told("sampling", tmp_path)
    for system in SYSTEMS:
        assert set(found[f"fashion-{system} steps"]) == {PINNED}
        assert sum(found[f"fashion-{system}"][WAIT].values()) == 2
        assert PAGEABLE not in found[f"fashion-{system}"]
    assert sum(found["waiting steps"][WAIT].values()) == 6, "a plan that waits says so: Plan.waits"
    assert set(found["waiting steps"]) == {PINNED, WAIT}


@needs_a_backend_in_python
def test_a_training_step_neither_waits_nor_copies(tmp_path: Path) -> None:
    found = told("training", tmp_path)
    for system in (*SYSTEMS, "base"):
        assert found[f"fashion-{system} steps"] == {}
        assert set(found[f"fashion-{system}"]) == {WAIT, PAGEABLE, PINNED}, "weights go there once"


@needs_a_backend_in_python
@pytest.mark.slow
def test_everything_else_mixes_no_devices(tmp_path: Path) -> None:
    assert {"eval", "features", "probe", "finetune"} <= set(told("the_rest", tmp_path))


def test_nothing_is_pinned_for_the_cpu() -> None:
    values = torch.ones(2)
    assert not pins("cpu")
    assert sent(values, torch.device("cpu")) is values
