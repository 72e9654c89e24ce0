"""Pickles of arrays: what EDM2 writes is read, and nothing else is."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.errors import InputError
from unmask.evaluate.array_pickles import read_arrays
from unmask.evaluate.reference import read_statistics

HELD: dict[str, Any] = {
    "fid": {"mu": np.arange(3.0), "sigma": np.eye(3)},
    "counts": [1, 2.5, "three", None],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_arrays_of_every_protocol_and_of_both_numpys(
    tmp_path: Path, protocol: int, core: bytes
) -> None:
    content = pickle.dumps(HELD, protocol)
    if protocol < 4:  # later ones count the letters of a name
        content = content.replace(b"numpy._core", core)
    (tmp_path / "a.pkl").write_bytes(content)
    found = read_arrays(tmp_path / "a.pkl")
    assert np.array_equal(found["fid"]["mu"], HELD["fid"]["mu"])
    assert np.array_equal(found["fid"]["sigma"], np.eye(3))
    assert found["counts"] == HELD["counts"]


class Runs:
    """What a pickle may do when it is loaded carelessly."""

    def __init__(self, call: object, *words: object) -> None:
        self.reduced = (call, words)

    def __reduce__(self) -> tuple:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("call", [os.system, eval, exec, print, np.load, np.fromfile, getattr])
def test_nothing_that_a_pickle_names_is_run(tmp_path: Path, protocol: int, call: object) -> None:
    mark = tmp_path / "ran"
    trap = {"mu": Runs(call, f"open({str(mark)!r}, 'w')")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(trap, protocol))
    with pytest.raises(InputError, match=r"is no pickle of arrays alone .it asks for"):
        read_arrays(tmp_path / "a.pkl")
    assert not mark.exists()


def test_a_size_that_is_only_claimed_takes_no_memory(tmp_path: Path) -> None:
    content = pickle.dumps({"mu": np.arange(3.0)}, 2)
    zero = pickle.dumps((0,), 2)
    assert b"K\x00\x85" in content
    assert b"K\x00\x85" in zero
    huge = content.replace(b"K\x00\x85", b"\x8a\x07" + (2**50).to_bytes(7, "little") + b"\x85")
    pickletools.dis(huge, io.StringIO())
    (tmp_path / "a.pkl").write_bytes(huge)
    assert read_arrays(tmp_path / "a.pkl")["mu"].tolist() == [0, 1, 2]


def test_damage_is_one_line(tmp_path: Path) -> None:
    content, stream = pickle.dumps(HELD, 2), np.random.default_rng(0)
    for trial in range(400):
        damaged = bytearray(content)
        for place in stream.integers(0, len(content), 1 + trial % 4):
            damaged[place] = stream.integers(256)
        (tmp_path / "a.pkl").write_bytes(damaged[: None if trial % 3 else stream.integers(400)])
        try:
            read_arrays(tmp_path / "a.pkl")
        except InputError as error:
            assert str(error).count("\n") == 0  # noqa: PT017


def test_statistics_of_edm2(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(HELD))
    found = read_statistics(tmp_path / "a.pkl", width=3)
    assert found.pooled.mean.tolist() == [0, 1, 2]
    assert found.spatial is None
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(HELD["fid"]))
    assert read_statistics(tmp_path / "b.pkl", width=3).pooled.mean.tolist() == [0, 1, 2]
    for other in ([1, 2], {"fid": 3}, {"mu": "text", "sigma": np.eye(3)}, np.zeros(3)):
        (tmp_path / "c.pkl").write_bytes(pickle.dumps(other))
        with pytest.raises(InputError, match=r"c\.pkl"):
            read_statistics(tmp_path / "c.pkl", width=3)
