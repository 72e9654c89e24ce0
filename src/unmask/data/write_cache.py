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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress
from torch import Tensor

from unmask.data.cache import INDEX_FILE, LABELS_FILE, PLAN_FILE, origin_file
from unmask.data.cache_records import CacheIndex, CachePlan, Shard, read_record, to_json
from unmask.data.decoding import UnreadableImageError
from unmask.data.digests import digest_of
from unmask.data.origin import (
    Difference,
    Identity,
    Origin,
    compare,
    difference,
    read_origin,
    stamp_of,
)
from unmask.data.reader import EncodedImages
from unmask.data.verified import LIST, Verified
from unmask.durable import clear_leftovers, explained, output, write_file
from unmask.errors import InputError
from unmask.folders import check_folder

WAYS_OUT = "name another folder (--out, of unmask train --cache-folder), or give --rebuild-cache"
AHEAD = 2  # batches that are read while one is encoded


class CacheRows(NamedTuple):
    """What a cache is made of, row by row."""

    plan: CachePlan
    """The cache that will be."""
    source: EncodedImages
    """Keys, labels, bytes and stamps of the rows."""
    read: Callable[[int, bytes], Tensor]
    """One row from its bytes, called in threads; raises ``UnreadableImageError`` when damaged."""
    pack: Callable[[list[Tensor]], Tensor]
    """What ``read`` gave of n rows to ``(n, views, *plan.item)`` on the CPU."""
    batch_size: int
    """Rows that are packed at a time."""


class _Outcome(NamedTuple):
    """What became of one row."""

    value: Tensor | UnreadableImageError
    identity: Identity


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
    notes: list[str]
    """Sentences on what was there before."""


def write_cache(
    rows: CacheRows,
    *,
    out: str | Path,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
    rebuild: bool = False,
    compared: bool = True,
) -> CacheReport:
    """Write a whole cache, or what is left of one that was stopped or damaged.

    Shards of an earlier call are kept if their files have the hash in their notes and the images
    that they were made from are the same; the bytes of images are read again only where sizes or
    times of their files changed.

    Args:
        rows: what is in it.
        out: its folder, new, empty or begun from the same rows.
        progress: show a bar.
        rank: of this process, in [0, world); it writes every ``world``-th shard.
        world: number of processes; whichever ends last finishes the cache.
        rebuild: remove the cache that is there, whatever it was made from, and begin anew.
        compared: whether to look for images that changed since their shard was written; one
            process of several is enough.

    Returns:
        What this process did; rows that could not be read are left out and named.

    Raises:
        InputError: ``out`` holds something else or a cache of other images, no row can be read, or
            the disk refuses.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    start, out = time.monotonic(), Path(out).expanduser()
    if rebuild and _is_cache(out):
        _remove(out)
        _write_whole(out / PLAN_FILE, to_json(rows.plan))
    rows = rows._replace(plan=_claim(out, rows.plan, rows.source))
    plan, seen = rows.plan, Verified(out)
    notes: list[str] = []
    numbers = range(-(-plan.images // plan.shard_size))
    own = numbers[rank::world]
    there = _finished(out, plan, numbers, seen)
    if compared:
        notes += _compare(out, plan, there, rows.source)
    missing = [number for number in own if number not in there]
    notes += _damage(out, plan, missing)
    batches = _batches(plan, missing, rows.batch_size)
    with Progress(disable=not progress, transient=True) as bar:
        read = bar.track(_read_ahead(rows, batches), len(batches), description="caching batches")
        for number, group in groupby(read, key=lambda pair: pair[0]):
            _write_shard(out, rows, number, (outcomes for _, outcomes in group), seen)
    shards = [*_finished(out, plan, numbers, seen).values()]
    complete = len(shards) == len(numbers)
    if complete:
        _finish(out, plan, shards, seen)
    return CacheReport(
        path=out,
        complete=complete,
        rows=sum(shard.rows for shard in shards),
        written=len(missing),
        kept=len(own) - len(missing),
        skipped=[pair for shard in shards for pair in shard.skipped],
        seconds=time.monotonic() - start,
        notes=notes,
    )


def _claim(out: Path, plan: CachePlan, source: EncodedImages) -> CachePlan:
    """Make sure that ``out`` is free or holds the beginnings of the same cache; its plan."""
    check_folder(out, "cache", may_hold=lambda: _is_cache(out))
    there = _stored_plan(out)
    if there is None:  # shards that lie there count if their notes name this plan
        _write_whole(out / PLAN_FILE, to_json(plan))
        return plan
    found, wanted = there.deciding, plan.deciding
    of_images = ("source_hash", "images", "class_names")
    for name in found:
        if name not in of_images and found[name] != wanted[name]:
            raise InputError(
                f"{out} holds a cache with {name} {found[name]!r}, not {wanted[name]!r}; {WAYS_OUT}"
            )
    if any(found[name] != wanted[name] for name in of_images):
        raise InputError(_of_others(out, _changes(out, there, plan, source)))
    _write_whole(out / PLAN_FILE, to_json(there))
    return there


def _is_cache(out: Path) -> bool:
    names = (PLAN_FILE, INDEX_FILE, "codes-00000.npy", "moments-00000.npy")
    return any((out / name).exists() for name in names)


def _stored_plan(out: Path) -> CachePlan | None:
    """The plan of what lies there, from its own file or from the index; None if both are lost."""
    with suppress(InputError):
        return read_record(out / PLAN_FILE, CachePlan)
    with suppress(InputError):
        return read_record(out / INDEX_FILE, CacheIndex).plan
    return None


def _of_others(out: Path, changes: Difference) -> str:
    return f"{out} holds a cache of other images: {changes}; {WAYS_OUT} to encode them anew"


def _changes(out: Path, there: CachePlan, plan: CachePlan, source: EncodedImages) -> Difference:
    """How the images of a cache, as far as it tells, differ from those of a source."""
    if there.class_names != plan.class_names:
        old, new = set(there.class_names), set(plan.class_names)
        return Difference(
            added=[f"class {name}" for name in plan.class_names if name not in old],
            removed=[f"class {name}" for name in there.class_names if name not in new],
            other="" if old != new else "the order of the classes",
        )
    shards = _notes(out, there, range(-(-there.images // there.shard_size)))
    origins = [_origin(out, shard) for shard in shards.values()]
    known = [origin for origin in origins if origin is not None]
    if sum(len(origin.keys) for origin in known) == there.images:
        return difference(known, source)
    if there.images != plan.images:
        return Difference(other=f"{there.images} before, {plan.images} now")
    return Difference(other="names or classes of some of them, which it does not tell")


def _shard_name(plan: CachePlan, number: int, ending: str) -> str:
    return f"{plan.encoding.kind}-{number:05d}.{ending}"


def _shard_rows(plan: CachePlan, number: int) -> range:
    return range(plan.images)[number * plan.shard_size :][: plan.shard_size]


def _notes(out: Path, plan: CachePlan, numbers: Iterable[int]) -> dict[int, Shard]:
    """The notes of those shards that are finished, belong to the plan and have their size."""
    found = {}
    for number in numbers:
        note, file = (out / _shard_name(plan, number, ending) for ending in ("json", "npy"))
        try:
            shard = read_record(note, Shard)
            if shard.belongs_to(plan) and file.stat().st_size == shard.size:
                found[number] = shard
        except (InputError, FileNotFoundError):
            continue
    return found


def _origin(out: Path, shard: Shard) -> Origin | None:
    return read_origin(origin_file(out, shard), shard.origin) if shard.origin else None


def _finished(
    out: Path, plan: CachePlan, numbers: Iterable[int], seen: Verified
) -> dict[int, Shard]:
    """Those of the noted shards whose file has the hash that its note states."""
    noted = _notes(out, plan, numbers)
    damaged = seen.damaged({shard.file: shard.digest for shard in noted.values()})
    return {
        number: shard
        for number, shard in noted.items()
        if shard.file not in damaged and (not shard.origin or origin_file(out, shard).exists())
    }


def _compare(
    out: Path, plan: CachePlan, there: dict[int, Shard], source: EncodedImages
) -> list[str]:
    """Refuse shards of images that have changed since; ``there`` loses those nothing is known of.

    Returns:
        A sentence on shards that do not tell what they were made from.
    """
    altered: list[str] = []
    touched: dict[Path, Origin] = {}
    for number, shard in list(there.items()):
        if not shard.origin:
            continue
        origin = _origin(out, shard)
        if origin is None:
            del there[number]
            continue
        changed, now = compare(origin, source, _shard_rows(plan, number))
        altered += changed
        if now.stamps != origin.stamps:
            touched[origin_file(out, shard)] = now
    if altered:
        raise InputError(_of_others(out, Difference(altered=altered)))
    for file, now in touched.items():
        _write_whole(file, now.content())
    older = sum(not shard.origin for shard in there.values())
    if not older:
        return []
    return [
        f"{out} is of an older revision, which did not note the content of images: names and "
        "classes agree, and it is used as it is (--rebuild-cache encodes anew)"
    ]


def _damage(out: Path, plan: CachePlan, missing: Sequence[int]) -> list[str]:
    """A sentence on shards that were finished once and are made again."""
    names = [_shard_name(plan, number, "npy") for number in missing]
    damaged = [name for name in names if (out / name).exists()]
    if not damaged:
        return []
    return [
        f"{len(damaged)} shards of {out} are damaged, unfinished or of another cache and are "
        f"encoded anew: {', '.join(damaged[:3])}{', …' * (len(damaged) > 3)}"
    ]


def _batches(plan: CachePlan, numbers: Iterable[int], size: int) -> list[tuple[int, range]]:
    """The rows of some shards, a batch at a time."""
    return [
        (number, rows[start : start + size])
        for number in numbers
        for rows in (_shard_rows(plan, number),)
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
            return _Outcome(rows.read(row, content), Identity(digest, stamp))
        except UnreadableImageError as error:
            return _Outcome(error, Identity(digest, stamp))

    pending: deque[tuple[int, list[Future[_Outcome]]]] = deque()
    with ThreadPoolExecutor() as pool, _cancelled_at_the_end(pool):
        for number, batch in [*batches, *[(-1, range(0))] * AHEAD]:
            pending.append((number, [pool.submit(_read, row) for row in batch]))
            if len(pending) > AHEAD:
                shard, futures = pending.popleft()
                yield shard, [future.result() for future in futures]


@contextmanager
def _cancelled_at_the_end(pool: ThreadPoolExecutor) -> Iterator[None]:
    """A build that is broken off does not wait for what it has not begun to read."""
    try:
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _write_shard(
    out: Path, rows: CacheRows, number: int, batches: Iterable[list[_Outcome]], seen: Verified
) -> None:
    """Pack one shard, then write its file, then what it was made from, then its note."""
    plan, own = rows.plan, _shard_rows(rows.plan, number)
    values = np.empty((len(own), plan.views, *plan.item), plan.dtype)
    errors: list[UnreadableImageError | None] = []
    identities: list[Identity] = []
    count = 0
    for batch in batches:
        good = [item.value for item in batch if isinstance(item.value, Tensor)]
        if good:
            values[count : count + len(good)] = _fitting(rows.pack(good).numpy(), plan)
        errors += [None if isinstance(item.value, Tensor) else item.value for item in batch]
        identities += [item.identity for item in batch]
        count += len(good)
    labels = [rows.source.label(row) for row in own]
    origin = Origin(
        keys=[rows.source.key(row) for row in own],
        labels=labels,
        digests=[identity.digest for identity in identities],
        stamps=[identity.stamp for identity in identities],
    )
    file, content = _shard_name(plan, number, "npy"), _npy(values[:count])
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
    _write_whole(out / file, content)
    seen.add(file, shard.digest)
    _write_whole(origin_file(out, shard), origin.content())
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
    """Write a file, unless it is there already; other processes may write the same bytes."""
    with suppress(OSError):
        if file.stat().st_size == len(content) and file.read_bytes() == content:
            return
    with output(file, "finished shards are kept", one_of_many=True) as aside:
        write_file(aside, content)


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
        _write_whole(out / LABELS_FILE, labels)
        seen.add(LABELS_FILE, digest)
    bare = tuple(replace(shard, labels=()) for shard in shards)
    index = CacheIndex(plan=plan, shards=bare, labels_digest=digest)
    _write_whole(out / INDEX_FILE, to_json(index))
    clear_leftovers(out)


def _remove(out: Path) -> None:
    """Remove the files of a cache, the index first, but for its plan, which says that it is one."""
    shards = [
        file
        for kind in ("codes", "moments")
        for ending in ("npy", "json", "origin")
        for file in out.glob(f"{kind}-*.{ending}")
    ]
    with explained(out, "the cache there is no longer whole"):
        for file in [out / INDEX_FILE, *shards, out / LABELS_FILE, out / LIST]:
            file.unlink(missing_ok=True)
