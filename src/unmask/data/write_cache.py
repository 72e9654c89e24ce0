"""Writing a latent cache shard by shard, whatever its rows are made from.

Any number of processes may write one cache, each its own shards; a restarted one keeps what is
finished. A shard counts once its note (``codes-00000.json``) is there, the cache once
``cache.json`` is; both are written aside and renamed.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress
from torch import Tensor

from unmask.data.cache import (
    INDEX_FILE,
    LABELS_FILE,
    CacheIndex,
    CachePlan,
    Shard,
    digest_of,
    read_record,
    to_json,
)
from unmask.data.decoding import UnreadableImageError
from unmask.durable import ASIDE, write_file
from unmask.errors import InputError
from unmask.folders import check_folder

PLAN_FILE = "plan.json"
AHEAD = 2  # batches that are read while one is encoded


class CacheRows(NamedTuple):
    """What a cache is made of, row by row."""

    plan: CachePlan
    """The cache that will be."""
    label: Callable[[int], int | None]
    """Class of a row, None if unlabelled."""
    read: Callable[[int], Tensor]
    """One row, called in threads; raises ``UnreadableImageError`` when it is damaged."""
    pack: Callable[[list[Tensor]], Tensor]
    """What ``read`` gave of n rows to ``(n, views, *plan.item)`` on the CPU."""
    batch_size: int
    """Rows that are packed at a time."""


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What one process did."""

    path: Path
    """Folder of the cache."""
    complete: bool
    """False while other processes still write their shards."""
    rows: int
    """Images in all shards finished so far."""
    written: int
    """Shards that this process wrote."""
    kept: int
    """Shards of this process that were finished before."""
    skipped: list[tuple[str, str]]
    """Key and reason of each image that could not be read."""
    seconds: float
    """Duration of this call."""


def write_cache(
    rows: CacheRows,
    *,
    out: str | Path,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
) -> CacheReport:
    """Write a whole cache, or what is left of one that was stopped.

    Args:
        rows: what is in it.
        out: its folder, new, empty or begun from the same rows.
        progress: show a bar.
        rank: of this process, in [0, world); it writes every ``world``-th shard.
        world: number of processes; whichever ends last finishes the cache.

    Returns:
        What this process did; rows that could not be read are left out and named.

    Raises:
        InputError: ``out`` holds something else, or no row can be read.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    start, out, plan = time.monotonic(), Path(out).expanduser(), rows.plan
    _claim(out, plan)
    numbers = range(-(-plan.images // plan.shard_size))
    own = numbers[rank::world]
    missing = [number for number in own if _finished(out, plan, number) is None]
    batches = _batches(plan, missing, rows.batch_size)
    with Progress(disable=not progress, transient=True) as bar:
        read = bar.track(_read_ahead(rows, batches), len(batches), description="caching batches")
        for number, group in groupby(read, key=lambda pair: pair[0]):
            _write_shard(out, rows, number, (outcomes for _, outcomes in group))
    shards = [shard for number in numbers if (shard := _finished(out, plan, number)) is not None]
    complete = len(shards) == len(numbers)
    if complete:
        _finish(out, plan, shards)
    return CacheReport(
        path=out,
        complete=complete,
        rows=sum(shard.rows for shard in shards),
        written=len(missing),
        kept=len(own) - len(missing),
        skipped=[pair for shard in shards for pair in shard.skipped],
        seconds=time.monotonic() - start,
    )


def _claim(out: Path, plan: CachePlan) -> None:
    """Make sure that ``out`` is free or holds the beginnings of the same cache."""
    file = out / PLAN_FILE
    check_folder(out, "cache", may_hold=file.exists)
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        _write_whole(file, to_json(plan))
        return
    found, wanted = (_flat(this) for this in (read_record(file, CachePlan), plan))
    for name, there in found.items():
        if there != wanted[name]:
            raise InputError(
                f"{out} holds a cache with {name} {there!r}, not {wanted[name]!r}; "
                "give another folder or delete that one"
            )


def _flat(plan: CachePlan) -> dict[str, object]:
    return {**asdict(plan.encoding), **asdict(plan), "encoding": None}


def _shard_name(plan: CachePlan, number: int, ending: str) -> str:
    return f"{plan.encoding.kind}-{number:05d}.{ending}"


def _finished(out: Path, plan: CachePlan, number: int) -> Shard | None:
    """The note of a shard, if it is whole and its file has the size that it states."""
    note, file = (out / _shard_name(plan, number, ending) for ending in ("json", "npy"))
    try:
        shard = read_record(note, Shard)
        return shard if file.stat().st_size == shard.size else None
    except (InputError, FileNotFoundError):
        return None


def _batches(plan: CachePlan, numbers: Iterable[int], size: int) -> list[tuple[int, range]]:
    """The rows of some shards, a batch at a time."""
    shards = {n: range(plan.images)[n * plan.shard_size :][: plan.shard_size] for n in numbers}
    return [
        (number, rows[start : start + size])
        for number, rows in shards.items()
        for start in range(0, len(rows), size)
    ]


def _read_ahead(
    rows: CacheRows, batches: Sequence[tuple[int, range]]
) -> Iterator[tuple[int, list[Tensor | UnreadableImageError]]]:
    """Batches of one shard after the other, read in threads while those before are packed."""

    def _read(row: int) -> Tensor | UnreadableImageError:
        try:
            return rows.read(row)
        except UnreadableImageError as error:
            return error

    pending: deque[tuple[int, list[Future[Tensor | UnreadableImageError]]]] = deque()
    with ThreadPoolExecutor() as pool:
        for number, batch in [*batches, *[(-1, range(0))] * AHEAD]:
            pending.append((number, [pool.submit(_read, row) for row in batch]))
            if len(pending) > AHEAD:
                shard, futures = pending.popleft()
                yield shard, [future.result() for future in futures]


def _write_shard(
    out: Path,
    rows: CacheRows,
    number: int,
    batches: Iterable[list[Tensor | UnreadableImageError]],
) -> None:
    """Pack one shard, then write its file, then its note."""
    plan = rows.plan
    values = np.empty((plan.shard_size, plan.views, *plan.item), plan.dtype)
    outcomes: list[UnreadableImageError | None] = []
    count = 0
    for batch in batches:
        good = [item for item in batch if isinstance(item, Tensor)]
        if good:
            values[count : count + len(good)] = _fitting(rows.pack(good).numpy(), plan)
        outcomes += [None if isinstance(item, Tensor) else item for item in batch]
        count += len(good)
    kept = [row for row, error in enumerate(outcomes, number * plan.shard_size) if error is None]
    labels = [rows.label(row) for row in kept]
    file, content = _shard_name(plan, number, "npy"), _npy(values[:count])
    _write_whole(out / file, content)
    shard = Shard(
        file=file,
        rows=count,
        size=len(content),
        digest=digest_of(content),
        labels=tuple(label for label in labels if label is not None),
        skipped=tuple((error.key, error.reason) for error in outcomes if error is not None),
    )
    _write_whole(out / _shard_name(plan, number, "json"), to_json(shard))


def _fitting(values: np.ndarray, plan: CachePlan) -> np.ndarray:
    """Values as they are stored, which must not cost more than their last digits."""
    if plan.encoding.kind == "codes":
        low, high = values.min(), values.max()
        assert 0 <= low <= high < plan.encoding.codes, f"codes {low} to {high}: {plan.encoding}"
    elif not np.abs(values).max() <= np.finfo(plan.dtype).max:  # a NaN fails it too
        raise InputError(
            f"moments reach {np.abs(values).max():.4g}, {plan.dtype} holds numbers up to "
            f"{np.finfo(plan.dtype).max:.4g}; use precision float32, or another tokenizer"
        )
    return values.astype(plan.dtype)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_whole(file: Path, content: bytes) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}{ASIDE}")  # others may write it too
    write_file(aside, content)
    try:
        aside.replace(file)
    except FileNotFoundError:
        # Another process has finished the cache and cleared up; it wrote the same bytes.
        if not file.exists():
            raise


def _finish(out: Path, plan: CachePlan, shards: list[Shard]) -> None:
    if not sum(shard.rows for shard in shards):
        raise InputError(f"none of the {plan.images} images of {plan.source} can be read")
    digest = ""
    if plan.class_names:
        labels = _npy(np.array([label for shard in shards for label in shard.labels], np.int64))
        digest = digest_of(labels)
        _write_whole(out / LABELS_FILE, labels)
    bare = tuple(replace(shard, labels=()) for shard in shards)
    index = CacheIndex(plan=plan, shards=bare, labels_digest=digest)
    _write_whole(out / INDEX_FILE, to_json(index))
    for left in out.glob(f".*{ASIDE}"):  # by processes that were killed
        left.unlink(missing_ok=True)
