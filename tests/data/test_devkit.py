"""Labels of the development kit, and MATLAB's files as it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from unmask.data.devkit import SYNSETS, TRUTH, find_truth, read_matlab, read_truth, truth_labels
from unmask.errors import InputError


def write_kit(folder: Path, numbers: list[int], names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRUTH).write_text("".join(f"{number}\n" for number in numbers))
    rows = np.array(list(enumerate(names, 1)), [("ILSVRC2012_ID", Any), ("WNID", Any)])
    savemat(folder / SYNSETS, {"synsets": rows})
    return folder / TRUTH


def test_numbers_become_names_by_the_table(tmp_path: Path) -> None:
    names = [f"n{7 * i % 101:03d}" for i in range(100)]
    numbers = np.random.default_rng(0).integers(1, 101, 500).tolist()
    truth = write_kit(tmp_path / "data", numbers, names)
    assert find_truth(tmp_path) == truth
    assert read_truth(truth) == [names[number - 1] for number in numbers]


def test_labels_follow_the_number_in_the_name_and_not_the_order(tmp_path: Path) -> None:
    truth = write_kit(tmp_path, [1, 2, 3], ["b", "a", "gone"])
    images = ["val/x_0002.JPEG", "val/x_1.png", "val/x_00000003.JPEG"]
    assert truth_labels(truth, images, {"a": 0, "b": 1}) == [0, 1, None]


@pytest.mark.parametrize("name", ["val/x.png", "val/x_4.png", "val/x_0.png", "val/x_99999999.png"])
def test_an_image_without_a_line_is_refused(tmp_path: Path, name: str) -> None:
    truth = write_kit(tmp_path, [1, 2, 3], ["a", "b", "c"])
    with pytest.raises(InputError, match=rf"{name} has no number from 1 to 3"):
        truth_labels(truth, [name], {"a": 0})


def test_a_kit_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    truth = write_kit(tmp_path, [1, 9], ["a", "b"])
    with pytest.raises(InputError, match=r"holds the number 9, which .*meta\.mat does not"):
        read_truth(truth)
    (tmp_path / SYNSETS).unlink()
    with pytest.raises(InputError, match=r"meta\.mat explains; copy that too"):
        read_truth(truth)
    savemat(tmp_path / SYNSETS, {"other": 1.0})
    with pytest.raises(InputError, match="holds no synsets"):
        read_truth(truth)
    truth.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_truth(truth)


def records(rows: list[dict[str, Any]]) -> np.ndarray:
    fields = [(name, object) for name in rows[0]]
    return np.array([tuple(row.values()) for row in rows], fields)


@pytest.mark.parametrize("compressed", [True, False])
def test_texts_numbers_and_records_are_read(tmp_path: Path, compressed: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"ID": float(i), "WNID": f"n{i:08d}", "words": "x" * i, "children": np.arange(i)}
        for i in range(1, 40)
    ]
    held = {"synsets": records(rows), "one": 7.5, "text": "abc", "small": np.uint8(3)}
    savemat(tmp_path / "a.mat", held, do_compression=compressed)
    found: dict[str, Any] = read_matlab(tmp_path / "a.mat")
    assert (found["one"], found["text"], found["small"]) == (7.5, "abc", 3)
    assert [(row["ID"], row["WNID"], row["words"]) for row in found["synsets"]] == [
        (row["ID"], row["WNID"], row["words"]) for row in rows
    ]


def test_what_is_not_understood_is_none(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"cells": np.array([[1], "a"], Any), "matrix": np.eye(3)})
    assert read_matlab(tmp_path / "a.mat") == {"cells": None, "matrix": None}


def test_damage_is_one_line(tmp_path: Path) -> None:
    rows = [{"ID": float(i), "WNID": f"n{i:08d}"} for i in range(30)]
    file, stream = tmp_path / "a.mat", np.random.default_rng(0)
    savemat(file, {"synsets": records(rows)}, do_compression=False)
    whole = file.read_bytes()
    for trial in range(300):
        damaged = bytearray(whole)
        for place in stream.integers(0, len(whole), 1 + trial % 4):
            damaged[place] = stream.integers(256)
        file.write_bytes(damaged[: stream.integers(len(whole))] if trial % 3 == 0 else damaged)
        try:
            read_matlab(file)
        except InputError as error:
            assert "a.mat is no MATLAB file of level 5" in str(error)  # noqa: PT017
    with pytest.raises(InputError, match="no MATLAB file"):
        read_matlab(tmp_path / "nowhere.mat")
