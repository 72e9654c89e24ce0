"""Options of the whole test suite.

``pytest tests/parity --fixtures DIR`` runs the golden cases of another directory. pytest has a
``--fixtures`` flag of its own, which lists fixtures and takes no value; with a directory behind it,
it is taken as ``--golden DIR`` here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core, and their children: one thread each
    os.environ["OMP_NUM_THREADS"] = "1"

FIXTURES = Path(__file__).parent / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the golden cases come from another directory."""
    parser.addoption(
        "--golden",
        default=str(FIXTURES),
        metavar="DIR",
        help="directory of golden cases (*.json, searched recursively) for tests/parity",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Turn ``--fixtures DIR`` into ``--golden DIR`` before pytest lists its own fixtures."""
    words = list(map(str, config.invocation_params.args))
    if "--fixtures" not in words[:-1]:
        return
    folder = words[words.index("--fixtures") + 1]
    if folder.startswith("-") or folder not in config.args:
        return
    if len(config.args) > 1:
        config.args.remove(folder)
        config.option.golden = folder
        config.option.showfixtures = False


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The golden data that travel with the repository, whatever ``--fixtures`` says."""
    return FIXTURES
