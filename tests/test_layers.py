"""The order of the package: each part imports only what stands before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import unmask

LAYERS = (
    "lazy errors ranges text show types draws curves labels image_size results",
    "assets machine files pictures",
    "nn memory networks checkpoints tokenizers",
    "masking counts orders guidance decode divergence plan_changes",
    "data recipes objectives projects",
    "generation pipeline edit film convert export",
    "evaluate train probe",
    "takeover demo report estimate commands cli",
)
ORDER = " ".join(LAYERS).split()
ROOT = Path(unmask.__file__).parent
FILES = {path.relative_to(ROOT).with_suffix("").parts: path for path in ROOT.rglob("*.py")}


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """The modules of this package that a file names in imports, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "unmask"
        ):
            home = tuple(node.module.split(".")[1:])
            for alias in node.names:
                module = (*home, alias.name)
                yield module if module in FILES or (*module, "__init__") in FILES else home
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("unmask."):
                    yield tuple(alias.name.split(".")[1:])


def test_every_part_has_its_place() -> None:
    assert {parts[0] for parts in FILES} - {"__init__", "__main__"} == set(ORDER)


def test_no_import_climbs() -> None:
    rank = {part: place for place, part in enumerate(ORDER)}
    climbing = [
        f"{'.'.join(parts)} imports {'.'.join(other)}"
        for parts, path in FILES.items()
        for other in imported(path)
        if other and parts[0] in rank and rank[other[0]] > rank[parts[0]]
    ]
    assert not climbing


@pytest.mark.parametrize(
    ("module", "most"),
    [("unmask.evaluate.frechet", 8), ("unmask.tokenizers.dc_ae", 25), ("unmask.pipeline", 60)],
)
def test_a_part_loads_little_else(module: str, most: int) -> None:
    """Families of tokenizers and foreign files are for names that ask for them."""
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = sorted(name for name in done.stdout.split() if name.split(".")[0] == "unmask")
    assert len(loaded) <= most, loaded
