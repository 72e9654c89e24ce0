"""Every script beside the package fits the package as it is now: its imports resolve."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {"common": "publish", "random_caches": "measure"}  # with one thing they offer
SCRIPTS = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_loaded(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(script.parent))
    found = runpy.run_path(str(script), run_name="loaded")
    assert found["__doc__"], "it says what it is for"
    assert callable(found[LIBRARIES.get(script.stem, "main")])
