"""Files of a checkpoint: the usual formats, hashed on the way, one tensor in memory at a time."""

from __future__ import annotations

import errno
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unmask.checkpoints.streamed import fill_json, fill_state, fill_tensors, write_hashed
from unmask.checkpoints.write_tensors import DTYPES


def every_kind() -> dict[str, torch.Tensor]:
    """All types; scalars, empty, tied, strided and transposed tensors, and odd names."""
    stream = torch.Generator().manual_seed(0)
    state = {str(dtype): (torch.randn(3, 5, generator=stream) * 9).to(dtype) for dtype in DTYPES}
    wide = torch.arange(12.0).view(3, 4)
    return state | {
        "tied.a": wide,
        "tied.b": wide,
        "turned": wide.T,
        "strided": wide[:, 1::2],
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 3),
        'a "name"\n\N{SNOWMAN}': torch.ones(1),
        "learnt": torch.ones(2, requires_grad=True),
    }


def test_tensors_read_back_as_they_were(tmp_path: Path) -> None:
    state = every_kind()
    write_hashed(tmp_path / "t.safetensors", fill_tensors(state))
    back = load_file(tmp_path / "t.safetensors")
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach())


def test_each_tensor_lies_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    state = every_kind()
    write_hashed(tmp_path / "t", fill_tensors(state))
    for name, tensor in load_file(tmp_path / "t").items():
        assert tensor.data_ptr() % state[name].element_size() == 0


@pytest.mark.parametrize(
    "fill",
    [fill_tensors(every_kind()), fill_state({"a": every_kind(), "b": 1}), fill_json({"a": [1]})],
    ids=["tensors", "state", "json"],
)
def test_size_and_hash_are_those_of_the_file(tmp_path: Path, fill: Callable) -> None:
    entry = write_hashed(tmp_path / "file", fill)
    content = (tmp_path / "file").read_bytes()
    assert entry == {
        "bytes": len(content),
        "blake2b": hashlib.blake2b(content).hexdigest(),
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "fill",
    [fill_tensors({"a": torch.zeros(9)}), fill_state({"a": torch.zeros(10**6)}), fill_json([1])],
    ids=["tensors", "state", "json"],
)
def test_a_full_disk_stays_an_error_of_the_disk(fill: Callable) -> None:
    """torch's writer would make a RuntimeError of its own of it."""
    with pytest.raises(OSError) as caught:
        write_hashed(Path("/dev/full"), fill)
    assert caught.value.errno == errno.ENOSPC


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    state = {str(i): torch.zeros(2**18).expand(2, -1) for i in range(16)}  # 2 MiB each if copied
    tracemalloc.start()
    try:
        write_hashed(tmp_path / "t", fill_tensors(state))
        write_hashed(tmp_path / "s", fill_state(state))
        _, peak = tracemalloc.get_traced_memory()  # of Python's own: bytes that are built
    finally:
        tracemalloc.stop()
    assert (tmp_path / "t").stat().st_size > 32 * 2**20
    assert peak < 4 * 2**20
