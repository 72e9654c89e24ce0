"""Writing a latent cache shard by shard, whatever its rows are made from.

Any number of processes may write one cache, each its own shards; a restarted one keeps what is
finished and whole. A shard counts once its note (``codes-00000.json``) is there, the cache once
``cache.json`` is; all files are written aside and renamed.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeVar

import numpy as np
from torch import Tensor

from unmask.data.cache import INDEX_FILE, LABELS_FILE, PLAN_FILE
from unmask.data.cache_records import CacheIndex, CachePlan, Shard, to_json
from unmask.data.decoding import UnreadableImageError
from unmask.data.kept_shards import (
    claim,
    compare_images,
    damage,
    finished,
    remove_cache,
    shard_name,
    shard_rows,
    write_whole,
)
from unmask.data.origin import Origin, stamp_of
from unmask.data.reader import EncodedImages
from unmask.errors import InputError
from unmask.files.digests import digest_of
from unmask.files.durable import clear_leftovers
from unmask.files.verified import Verified
from unmask.machine.processes import LATE, by_main, check_shared, launched, meet
from unmask.show import Bar
from unmask.text import some

T = TypeVar("T")

AHEAD = 2  # batches that are read while one is encoded


class CacheRows(NamedTuple):
    """What a cache is made of, row by row.

    Args:
        plan: The cache that will be.
        source: Keys, labels, bytes and stamps of the rows.
        read: One row from its bytes, called in threads; raises ``UnreadableImageError`` when
            damaged.
        pack: What ``read`` gave of n rows to ``(n, views, *plan.item)`` on the CPU.
        batch_size: Rows that are packed at a time.
        any_shards: Whether shards that lie there may have another size than the plan's.
    """

    plan: CachePlan
    source: EncodedImages
    read: Callable[[int, bytes], Tensor]
    pack: Callable[[list[Tensor]], Tensor]
    batch_size: int
    any_shards: bool = False


class _Outcome(NamedTuple):
    """What became of one row.

    Args:
        value: What was read; None of a row that cannot be.
        error: Why it cannot be read.
        digest: Hash of its bytes; empty when they could not be had.
        stamp: What stands for its file.
    """

    value: Tensor | None
    error: UnreadableImageError | None
    digest: str
    stamp: str


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What one process did, or all that wrote together.

    Args:
        path: Folder of the cache.
        complete: False while other processes still write their shards.
        rows: Images in all shards finished so far.
        written: Shards that were written.
        kept: Shards that were finished before.
        skipped: Key and reason of each image that could not be read.
        seconds: Duration of this call.
        notes: Sentences on what was there before.
    """

    path: Path
    complete: bool
    rows: int
    written: int
    kept: int
    skipped: list[tuple[str, str]]
    seconds: float
    notes: list[str]


class Writing(TypedDict, total=False):
    """How a cache is written, whatever is in it."""

    progress: bool
    """Show a bar; True unless given."""
    rank: int
    """Number of this process, in [0, world); it writes every ``world``-th shard."""
    world: int
    """Number of processes, 1 unless given; whichever ends last finishes the cache."""
    rebuild: bool
    """Remove a cache that is there, whatever it was made from, and begin anew."""
    together: bool
    """Share the work with the other processes of the launcher, which all call this and share the
    folder: all have the same report. False unless given."""


def write_cache(
    rows: CacheRows,
    *,
    out: str | Path,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
    rebuild: bool = False,
    together: bool = False,
) -> CacheReport:
    """Write a whole cache, or what is left of one that was stopped or damaged.

    Shards of an earlier call are kept if their files have the hash in their notes and the images
    that they were made from are the same; the bytes of images are read again only where sizes or
    times of their files changed.

    Args:
        rows: what is in it.
        out: its folder, new, empty or begun from the same rows.
        progress: see :class:`Writing`, as for the next four.

    Returns:
        What was done; rows that could not be read are left out and named.

    Raises:
        InputError: ``out`` holds something else or a cache of other images, no row can be read, or
            the disk refuses.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    start, out = time.monotonic(), Path(out).expanduser()
    once = by_main if together else _here
    begun = once(lambda: _begin(out, rows, slice(rank, None, world), rebuild))
    plan, missing = begun.plan, begun.missing
    if together:
        check_shared(out / PLAN_FILE)
        state = launched()
        begun.notes.extend(_idle(plan, missing, state.num_processes))
        missing = missing[state.process_index :: state.num_processes]
        progress = progress and state.is_main_process
    seen, batches = Verified(out), _batches(plan, missing, rows.batch_size)
    with Bar("caching", len(batches), unit="batches", shown=progress) as bar:
        read = bar.over(_read_ahead(rows, batches))
        for number, group in groupby(read, key=lambda pair: pair[0]):
            _write_shard(out, rows._replace(plan=plan), number, (found for _, found in group), seen)
    if together:
        meet()
    shards = once(lambda: _conclude(out, plan, whole=together))
    if together:
        check_shared(out / INDEX_FILE)
    return CacheReport(
        path=out,
        complete=sum(shard.rows + len(shard.skipped) for shard in shards) == plan.images,
        rows=sum(shard.rows for shard in shards),
        written=len(begun.missing),
        kept=begun.kept,
        skipped=[pair for shard in shards for pair in shard.skipped],
        seconds=time.monotonic() - start,
        notes=begun.notes,
    )


def _idle(plan: CachePlan, missing: Sequence[int], world: int) -> Iterator[str]:
    """A sentence on processes that have nothing to do, if there are such."""
    shards = len(_numbers(plan))
    if missing and shards < world:
        each = -(-plan.images // world)
        yield (
            f"the cache has {shards} shards, so {shards} of {world} processes encode; more do in "
            f"one that is begun by: unmask cache build --shard-size {each}"
        )


def _here(work: Callable[[], T]) -> T:
    return work()


class _Begun(NamedTuple):
    """What there is to do.

    Args:
        plan: The plan that counts: that of what lies there, if something does.
        missing: Numbers of the shards that are still to be written.
        kept: How many others are finished.
        notes: Sentences on what was there before.
    """

    plan: CachePlan
    missing: list[int]
    kept: int
    notes: list[str]


def _begin(out: Path, rows: CacheRows, part: slice, rebuild: bool) -> _Begun:
    """Take the folder, and find what is left to do in a part of the shards."""
    if rebuild:
        remove_cache(out, rows.plan)
    plan = claim(out, rows.plan, rows.source, any_shards=rows.any_shards)
    there = finished(out, plan, _numbers(plan), Verified(out))
    notes = compare_images(out, plan, there, rows.source)
    own = _numbers(plan)[part]
    missing = [number for number in own if number not in there]
    return _Begun(plan, missing, len(own) - len(missing), [*notes, *damage(out, plan, missing)])


def _numbers(plan: CachePlan) -> range:
    """The numbers of all shards."""
    return range(-(-plan.images // plan.shard_size))


def _conclude(out: Path, plan: CachePlan, *, whole: bool) -> list[Shard]:
    """All finished shards; the one who finds them complete finishes the cache.

    Args:
        out: the folder.
        plan: of the cache.
        whole: whether all have been written, if a network file system still hides some.

    Raises:
        InputError: no row can be read, or one that has been written is not there.
    """
    end = time.monotonic() + LATE * whole
    seen = Verified(out)
    while True:
        there = finished(out, plan, _numbers(plan), seen)
        if len(there) == len(_numbers(plan)):
            _finish(out, plan, [*there.values()], seen)
            break
        if time.monotonic() >= end:
            break
        time.sleep(1)
    lost = [shard_name(plan, n, "npy") for n in _numbers(plan) if n not in there]
    if whole and lost:
        raise InputError(
            f"{some(lost)} are not in {out}, though another process has written them; name a "
            "folder that all machines share"
        )
    return [*there.values()]


def _batches(plan: CachePlan, numbers: Iterable[int], size: int) -> list[tuple[int, range]]:
    """The rows of some shards, a batch at a time."""
    return [
        (number, rows[start : start + size])
        for number in numbers
        for rows in (shard_rows(plan, number),)
        for start in range(0, len(rows), size)
    ]


def _read_ahead(
    rows: CacheRows, batches: Sequence[tuple[int, range]]
) -> Iterator[tuple[int, list[_Outcome]]]:
    """Batches of one shard after the other, read in threads while those before are packed."""

    def _read(row: int) -> _Outcome:
        digest, stamp = "", stamp_of(rows.source, row)
        try:
            content = rows.source.content(row)
            digest = digest_of(content)
            return _Outcome(rows.read(row, content), None, digest, stamp)
        except UnreadableImageError as error:
            return _Outcome(None, error, digest, stamp)

    pending: deque[tuple[int, list[Future[_Outcome]]]] = deque()
    with ThreadPoolExecutor() as pool, ExitStack() as end:
        # A build that is broken off does not wait for what it has not begun to read.
        end.callback(pool.shutdown, wait=False, cancel_futures=True)
        for number, batch in [*batches, *[(-1, range(0))] * AHEAD]:
            pending.append((number, [pool.submit(_read, row) for row in batch]))
            if len(pending) > AHEAD:
                shard, futures = pending.popleft()
                yield shard, [future.result() for future in futures]


def _write_shard(
    out: Path, rows: CacheRows, number: int, batches: Iterable[list[_Outcome]], seen: Verified
) -> None:
    """Pack one shard, then write its file, then what it was made from, then its note."""
    plan, own = rows.plan, shard_rows(rows.plan, number)
    values = np.empty((len(own), plan.views, *plan.item), plan.dtype)
    outcomes: list[_Outcome] = []
    count = 0
    for batch in batches:
        good = [item.value for item in batch if item.value is not None]
        if good:
            values[count : count + len(good)] = _fitting(rows.pack(good).numpy(), plan)
        count += len(good)
        outcomes += [item._replace(value=None) for item in batch]
    errors = [item.error for item in outcomes]
    labels = [rows.source.label(row) for row in own]
    origin = Origin(
        keys=[rows.source.key(row) for row in own],
        labels=labels,
        digests=[item.digest for item in outcomes],
        stamps=[item.stamp for item in outcomes],
    )
    file, content = shard_name(plan, number, "npy"), _npy(values[:count])
    kept = [label for label, error in zip(labels, errors, strict=True) if error is None]
    shard = Shard(
        file=file,
        rows=count,
        size=len(content),
        digest=digest_of(content),
        labels=tuple(label for label in kept if label is not None),
        skipped=tuple((error.key, error.reason) for error in errors if error is not None),
        plan="" if plan.format == 2 else plan.digest,
        tokenizer=plan.encoding.tokenizer,
        origin=origin.digest,
    )
    write_whole(out / file, content)
    seen.add(file, shard.digest)
    write_whole(out / shard.beside(".origin"), origin.content())
    write_whole(out / shard.beside(".json"), to_json(shard))


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


def _finish(out: Path, plan: CachePlan, shards: list[Shard], seen: Verified) -> None:
    if not sum(shard.rows for shard in shards):
        (key, reason), *_ = [pair for shard in shards for pair in shard.skipped]
        raise InputError(
            f"none of the {plan.images} images of {plan.source} can be read; {key}: {reason}"
        )
    digest = ""
    if plan.class_names:
        labels = _npy(np.array([label for shard in shards for label in shard.labels], np.int64))
        digest = digest_of(labels)
        write_whole(out / LABELS_FILE, labels)
        seen.add(LABELS_FILE, digest)
    bare = tuple(replace(shard, labels=()) for shard in shards)
    index = CacheIndex(plan=plan, shards=bare, labels_digest=digest)
    write_whole(out / INDEX_FILE, to_json(index))
    clear_leftovers(out)
