"""Data sets of more files than a process may open: every image, in any order, by any process."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forks import forked, status
from tiny_data import ListSource, PatchTokenizer, png, write_tar

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.reader import Reader
from unmask.data.source import open_source

LIMIT = 256  # of open files: what macOS allows
pytestmark = pytest.mark.slow


def under_the_limit(body: Callable[[], object]) -> int:
    """Status of a child that may open few files."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
        body()

    return status(forked(limited))


def read_all(images: Reader, count: int) -> None:
    """Read every image twice, at random, in threads; then in a child of this process."""
    rows = [*range(count)] * 2
    random.Random(0).shuffle(rows)

    def check(row: int) -> None:
        assert images.content(row) == png(int(images.key(row).rpartition("/")[2][:5]) % 256)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, rows))
    assert status(forked(lambda: [check(row) for row in rows[:count]])) == 0


def tars(folder: Path) -> None:
    for i in range(1300):
        write_tar(folder / f"{i:05d}.tar", [(f"{i:05d}.png", png(i % 256))])


def tables(folder: Path) -> None:
    for i in range(1300):
        table = pa.table({"image": [{"bytes": png(i % 256), "path": "x"}], "label": [i % 10]})
        pq.write_table(table, folder / f"{i:05d}.parquet")


@pytest.mark.parametrize("make", [tars, tables])
def test_shards(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)

    def read() -> None:
        images = open_source(tmp_path, split="all")
        assert len(images) == 1300
        if make is tars:
            read_all(images, 1300)
            return
        order = random.Random(0).sample(range(1300), 1300)
        assert [images.content(row) for row in order] == [png(row % 256) for row in order]

    assert under_the_limit(read) == 0


def test_shards_of_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    source = ListSource([i % 256 for i in range(2500)])
    layout = CacheLayout(image_size=8, shard_size=1, batch_size=64)
    build_cache(PatchTokenizer(), source, out=tmp_path / "c", layout=layout, progress=False)

    def read() -> None:
        cache = LatentCache.open(tmp_path / "c")
        for _ in range(2):
            rows, views = torch.randperm(2500), torch.randint(2, (2500,))
            codes = cache.tokens(rows, views)  # (N, L)
            column = torch.where(views == 0, 0, 3)  # of the image's left half
            expected = rows % 256 + torch.where(views == 0, 256, 0)
            assert torch.equal(codes[torch.arange(2500), column], expected)

        def batch() -> None:
            assert len(cache.tokens(torch.arange(900), torch.zeros(900).long())) == 900

        assert status(forked(batch)) == 0

    assert under_the_limit(read) == 0
