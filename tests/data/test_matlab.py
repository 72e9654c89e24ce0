import numpy as np
import pytest
from scipy.io import savemat

from unmask.data.matlab import read_matlab
from unmask.errors import InputError


def records(rows):
    fields = [(name, object) for name in rows[0]]
    return np.array([tuple(row.values()) for row in rows], fields)


@pytest.mark.parametrize("compressed", [True, False])
def test_texts_numbers_and_records_are_read(tmp_path, compressed):
    rows = [
        {"ID": float(i), "WNID": f"n{i:08d}", "words": "x" * i, "children": np.arange(i)}
        for i in range(1, 40)
    ]
    held = {"synsets": records(rows), "one": 7.5, "text": "abc", "small": np.uint8(3)}
    savemat(tmp_path / "a.mat", held, do_compression=compressed)
    found = read_matlab(tmp_path / "a.mat")
    assert (found["one"], found["text"], found["small"]) == (7.5, "abc", 3)
    assert [(row["ID"], row["WNID"], row["words"]) for row in found["synsets"]] == [
        (row["ID"], row["WNID"], row["words"]) for row in rows
    ]


def test_what_is_not_understood_is_none(tmp_path):
    savemat(tmp_path / "a.mat", {"cells": np.array([[1], "a"], object), "matrix": np.eye(3)})
    assert read_matlab(tmp_path / "a.mat") == {"cells": None, "matrix": None}


def test_damage_is_one_line(tmp_path):
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
