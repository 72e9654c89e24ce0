"""One test a golden case."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import find_cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``case`` over the directory that ``--fixtures DIR`` names."""
    if "case" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("golden"))
    cases = find_cases(folder)
    if not cases:
        raise pytest.UsageError(f"--fixtures {folder}: no golden case (*.json with a kind) in it")
    metafunc.parametrize("case", cases, ids=[f"{c.kind}/{c.name}" for c in cases])
