"""Every script beside the package fits the package as it is now: its imports resolve."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unmask.machine.devices import find_accelerator

ROOT = Path(__file__).parents[1]
LIBRARIES = {"common": "publish", "random_caches": "measure"}  # with one thing they offer
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_loaded(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    found = runpy.run_path(str(script), run_name="loaded")
    assert found["__doc__"], "it says what it is for"
    assert callable(found[LIBRARIES.get(script.stem, "main")])


def said_by_gpu(*words: object) -> str:
    """What ``benchmarks/gpu.py`` prints."""
    line = [sys.executable, ROOT / "benchmarks" / "gpu.py", *words]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, line)], env=one_thread, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(find_accelerator() is not None, reason="it would measure")
def test_without_a_gpu_the_benchmark_says_what_it_would_measure() -> None:
    told = said_by_gpu().splitlines()
    assert told[0] == "no GPU here; with one it would measure, within 480 s:"
    assert {"* all: tests", "* MAR: bf16 compiled", "* MaskGIT: training, bf16"} <= set(told)


@pytest.mark.slow
def test_the_benchmark_of_gpus_tried_on_the_cpu() -> None:
    """Sixteen rows, and the budget holds whatever compiling takes."""
    began = time.monotonic()
    told = said_by_gpu("--device", "cpu", "--tiny", "--budget", 60, "--batch-size", 2)
    assert time.monotonic() - began < 60 + 30, "and its start"
    rows = [line for line in told.splitlines() if line.startswith(("| Mask", "| MA", "| eM"))]
    assert len(rows) == 16
    assert [row for row in rows if "images/s" in row], "of those that came in time"
