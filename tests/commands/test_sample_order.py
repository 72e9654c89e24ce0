"""In which order the images of a set are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_system import toy_pipeline

from unmask.cli import main
from unmask.commands.sample import in_turn


@pytest.mark.parametrize(("classes", "per_class"), [(1, 5), (4, 1), (3, 7), (10, 50), (0, 6)])
def test_every_part_of_the_order_holds_the_classes_evenly(classes: int, per_class: int) -> None:
    labels = [label for label in range(classes) for _ in range(per_class)] or [0] * per_class
    order = in_turn(len(labels), per_class)
    assert sorted(order) == list(range(len(labels)))
    written = np.array([labels[k] for k in order])
    for size in (2, 5, max(classes, 1), 3 * classes + 1):
        for start in range(0, len(written), size):
            part = written[start : start + size]
            held = np.bincount(part, minlength=max(classes, 1))
            assert held.max() - held.min() <= 1, (size, start)


def test_a_file_for_evaluators_holds_the_classes_in_turn(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    words = ["sample", tmp_path / "model", "--device", "cpu", "--per-class", 4, "--batch-size", 3]
    words += ["--steps", 2, "--out", tmp_path / "set"]
    assert main([*map(str, [*words, "--classes", 2, 0, "--format", "npz"])]) == 0
    with np.load(tmp_path / "set" / "samples.npz") as file:
        assert file["arr_1"].tolist() == [2, 0] * 4
