"""Processes of a launcher build one cache together, of the bytes that one process makes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gloo import joined
from test_build_cache import CROPS, LAYOUT, build
from tiny_data import MomentTokenizer, PatchTokenizer, contents
from torch import Tensor

from unmask.data import write_cache
from unmask.data.build_cache import CacheLayout
from unmask.errors import InputError, SaidError
from unmask.machine import processes

EACH = CacheLayout(image_size=8, shard_size=1, batch_size=1)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("layout", [LAYOUT, CROPS, EACH])
def test_many_build_what_one_builds(tmp_path: Path, count: int, layout: CacheLayout) -> None:
    def body(rank: int) -> None:
        tokenizer = MomentTokenizer()
        report = build(tmp_path / "c", tokenizer=tokenizer, layout=layout, together=True)
        assert (report.complete, report.rows) == (True, 10)
        assert report.written == -(-10 // (layout.shard_size or 1))
        views = layout.crops or 2
        most = -(-report.written // count) * (layout.shard_size or 1) * views
        assert tokenizer.encoded <= most
        processes.part()

    assert joined(count, body) == [0] * count
    build(tmp_path / "one", tokenizer=MomentTokenizer(), layout=layout)
    assert contents(tmp_path / "c") == contents(tmp_path / "one")


class Slow(PatchTokenizer):
    """Takes its time for every batch."""

    def encode(self, images: Tensor) -> Tensor:
        time.sleep(0.4)
        return super().encode(images)


def test_one_may_take_longer_than_the_default_group_waits(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        tokenizer = Slow() if rank == 1 else PatchTokenizer()
        build(tmp_path / "c", tokenizer=tokenizer, layout=EACH, together=True)
        processes.part()

    assert joined(2, body, patience=0.5) == [0, 0]


class Dies(PatchTokenizer):
    """Ends its process at the third batch."""

    def encode(self, images: Tensor) -> Tensor:
        if self.encoded >= 4:
            os._exit(9)
        return super().encode(images)


@pytest.mark.parametrize("victim", [0, 1])
def test_what_a_killed_process_left_is_gone_on_with(tmp_path: Path, victim: int) -> None:
    def killed(rank: int) -> None:
        tokenizer = Dies() if rank == victim else PatchTokenizer()
        with pytest.raises(InputError, match="another process of this launch has ended"):
            build(tmp_path / "c", tokenizer=tokenizer, layout=EACH, together=True)

    def again(rank: int) -> None:
        tokenizer = PatchTokenizer()
        report = build(tmp_path / "c", tokenizer=tokenizer, layout=EACH, together=True)
        assert report.kept == kept
        assert abs(tokenizer.encoded - report.written) <= 1  # two views, two processes

    assert sorted(joined(2, killed)) == [0, 9]
    kept = len(list((tmp_path / "c").glob("codes-*.json")))
    assert 2 < kept < 10
    assert joined(2, again) == [0, 0]
    build(tmp_path / "one", layout=EACH)
    assert contents(tmp_path / "c") == contents(tmp_path / "one")


def test_what_the_main_process_refuses_all_refuse(tmp_path: Path) -> None:
    build(tmp_path / "c")

    def body(rank: int) -> None:
        other = CacheLayout(image_size=8, shard_size=5)
        with pytest.raises(InputError, match="shard_size 4, not 5") as told:
            build(tmp_path / "c", layout=other, together=True)
        assert isinstance(told.value, SaidError) == (rank == 1)

    assert joined(2, body) == [0, 0]


def test_folders_that_are_not_shared_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (write_cache, processes):
        monkeypatch.setattr(module, "LATE", 0.2)

    def body(rank: int) -> None:
        with pytest.raises(InputError, match=r"process 1 on .* does not see .*plan.json"):
            build(tmp_path / str(rank), layout=EACH, together=True)
        build(tmp_path / str(rank), layout=EACH, rank=0, world=2)  # both begun, each apart
        with pytest.raises(InputError, match=r"codes-0000.* are not in .*; name a folder"):
            build(tmp_path / str(rank), layout=EACH, together=True)

    assert joined(2, body) == [0, 0]
