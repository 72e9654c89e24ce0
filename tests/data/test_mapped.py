"""What a cold disk is asked for, and that systems without advice read the same."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import ListSource, MomentTokenizer

from unmask.data import mapped
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.mapped import MappedArray, disk_reads

IO = Path("/proc/self/io")
ROWS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 7 MB in three shards, 24 KiB a view."""
    folder = tmp_path_factory.mktemp("cold") / "cache"
    layout = CacheLayout(image_size=64, shard_size=50, batch_size=50)
    source = ListSource([i % 256 for i in range(ROWS)])
    build_cache(MomentTokenizer(), source, out=folder, layout=layout, progress=False)
    return folder


def read_bytes() -> int:
    """What devices have read for this process."""
    return int(IO.read_text().partition("\nread_bytes: ")[2].split()[0])


def from_disk(folder: Path, work: Callable[[], object]) -> int:
    """Bytes that a device reads for some work when no file of a folder is in memory."""
    gc.collect()
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    before = read_bytes()
    work()
    return read_bytes() - before


@pytest.mark.skipif(not IO.exists(), reason="this system does not count what is read")
@pytest.mark.parametrize("cold", [False, True])
def test_a_cold_disk_reads_little_more_than_is_asked_for(folder: Path, cold: bool) -> None:
    whole = from_disk(folder, lambda: (folder / "moments-00000.npy").read_bytes())
    if not whole:
        pytest.skip("these files lie on no device that counts")
    rows = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))[:40]
    cache = LatentCache.open(folder, check="never")
    cache._cold = cold  # asked for ahead, or waited for page by page
    wanted = len(rows) * cache.plan.item_bytes // 2
    read = from_disk(folder, lambda: cache.stored(rows, rows % 2))
    assert 0.9 * wanted < read < 1.3 * wanted


def test_rows_are_asked_for_ahead_only_after_a_disk_was_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(MappedArray, "fetch", lambda self, pieces, size: asked.append([*pieces]))
    waits = iter([0, 5, 5, 5, 5, 5])
    monkeypatch.setattr("unmask.data.cache.disk_reads", lambda: next(waits))
    cache, rows = LatentCache.open(folder, check="never"), torch.tensor([149, 1, 0])
    for _ in range(3):
        cache.stored(rows, torch.tensor([1, 0, 1]))
    assert asked == [[2, 1], [99], [2, 1], [99]], "views of the shard's rows, twice"


def test_a_system_without_advice_reads_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(ROWS)
    before = LatentCache.open(folder).stored(rows, rows % 2)
    monkeypatch.delattr(mmap, "MADV_RANDOM", raising=False)
    monkeypatch.setattr(mapped, "getrusage", None)
    assert torch.equal(LatentCache.open(folder).stored(rows, rows % 2), before)
    assert disk_reads() == 0


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_mapped_as_it_was_saved_or_refused(tmp_path: Path, order: str) -> None:
    array = np.asarray(np.arange(24, dtype="uint16").reshape(2, 3, 4), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    if order == "F":
        with pytest.raises(ValueError, match="columns"):
            MappedArray(tmp_path / "a.npy")
    else:
        found = MappedArray(tmp_path / "a.npy").array
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
