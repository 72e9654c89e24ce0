"""The notebooks in ``examples`` run from top to end and carry what they showed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
LARGEST = 400_000  # bytes


def code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds_of_output(cell: dict) -> set[str]:
    return {kind for output in cell["outputs"] for kind in output.get("data", {})}


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plt.close("all")
    space = ModuleType("notebook").__dict__
    drawn = 0
    for number, cell in enumerate(code_cells(notebook), 1):
        source = "".join(cell["source"])
        exec(compile(source, f"{notebook.name}, cell {number}", "exec"), space)
        figures = plt.get_fignums()
        for figure in figures:
            plt.figure(figure).canvas.draw()
        plt.close("all")
        assert not figures or "image/png" in kinds_of_output(cell), "a figure is not kept"
        drawn += len(figures)
    assert drawn


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_what_it_showed(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert sum("image/png" in kinds_of_output(cell) for cell in cells) >= 2
    assert notebook.stat().st_size < LARGEST
