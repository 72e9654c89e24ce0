"""What an earlier build has left and the next one may keep: whole shards of the same images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from unmask.data.cache import INDEX_FILE, LABELS_FILE, PLAN_FILE
from unmask.data.cache_records import CacheIndex, CachePlan, Shard, read_record, to_json
from unmask.data.origin import Difference, Origin, compare, difference, read_origin
from unmask.data.reader import EncodedImages
from unmask.errors import InputError
from unmask.files.durable import explained, output, sync_file
from unmask.files.folders import check_folder
from unmask.files.verified import LIST, Verified
from unmask.text import some

WAYS_OUT = "name another folder (--out, of unmask train --cache-folder), or give --rebuild-cache"


def claim(
    out: Path, plan: CachePlan, source: EncodedImages, *, any_shards: bool = False
) -> CachePlan:
    """Make sure that ``out`` is free or holds the beginnings of the same cache; its plan.

    With ``any_shards`` its shards may have another size than the plan says.
    """
    check_folder(out, "cache", may_hold=lambda: is_cache(out))
    there = _stored_plan(out)
    if there is None:  # shards that lie there count if their notes name this plan
        write_whole(out / PLAN_FILE, to_json(plan))
        return plan
    if any_shards:
        plan = replace(plan, shard_size=there.shard_size)
    found, wanted = there.deciding, plan.deciding
    of_images = ("source_hash", "images", "class_names")
    for name in found:
        if name not in of_images and found[name] != wanted[name]:
            raise InputError(
                f"{out} holds a cache with {name} {found[name]!r}, not {wanted[name]!r}; {WAYS_OUT}"
            )
    if any(found[name] != wanted[name] for name in of_images):
        raise InputError(_of_others(out, _changes(out, there, plan, source)))
    write_whole(out / PLAN_FILE, to_json(there))
    return there


def is_cache(out: Path) -> bool:
    """Whether a folder holds a cache, or the beginnings of one."""
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
    found = sorted(out.glob(f"{there.encoding.kind}-*.origin"))  # as many as there are, no more
    shards = _notes(out, there, range(len(found)))
    origins = [_origin(out, shard) for shard in shards.values()]
    known = [origin for origin in origins if origin is not None]
    if sum(len(origin.keys) for origin in known) == there.images:
        return difference(known, source)
    if there.images != plan.images:
        return Difference(other=f"{there.images} before, {plan.images} now")
    return Difference(other="names or classes of some of them, which it does not tell")


def shard_name(plan: CachePlan, number: int, ending: str) -> str:
    """The name of a shard's file, note or origin."""
    return f"{plan.encoding.kind}-{number:05d}.{ending}"


def shard_rows(plan: CachePlan, number: int) -> range:
    """The rows of the source that a shard covers."""
    return range(plan.images)[number * plan.shard_size :][: plan.shard_size]


def _notes(out: Path, plan: CachePlan, numbers: Iterable[int]) -> dict[int, Shard]:
    """The notes of those shards that are finished, belong to the plan and have their size."""
    found = {}
    for number in numbers:
        note, file = (out / shard_name(plan, number, ending) for ending in ("json", "npy"))
        try:
            shard = read_record(note, Shard)
            if shard.belongs_to(plan) and file.stat().st_size == shard.size:
                found[number] = shard
        except (InputError, FileNotFoundError):
            continue
    return found


def _origin(out: Path, shard: Shard) -> Origin | None:
    return read_origin(out / shard.beside(".origin"), shard.origin) if shard.origin else None


def finished(
    out: Path, plan: CachePlan, numbers: Iterable[int], seen: Verified
) -> dict[int, Shard]:
    """Those of the noted shards whose file has the hash that its note states."""
    noted = _notes(out, plan, numbers)
    lost = {s.file for s in noted.values() if s.origin and not (out / s.beside(".origin")).exists()}
    lost |= {*seen.damaged({shard.file: shard.digest for shard in noted.values()})}
    return {number: shard for number, shard in noted.items() if shard.file not in lost}


def compare_images(
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
        changed, now = compare(origin, source, shard_rows(plan, number))
        altered += changed
        if now.stamps != origin.stamps:
            touched[out / shard.beside(".origin")] = now
    if altered:
        raise InputError(_of_others(out, Difference(altered=altered)))
    for file, now in touched.items():
        write_whole(file, now.content())
    older = sum(not shard.origin for shard in there.values())
    if not older:
        return []
    return [
        f"{out} is of an older revision, which did not note the content of images: names and "
        "classes agree, and it is used as it is (--rebuild-cache encodes anew)"
    ]


def damage(out: Path, plan: CachePlan, missing: Sequence[int]) -> list[str]:
    """A sentence on shards that were finished once and are made again."""
    names = [shard_name(plan, number, "npy") for number in missing]
    damaged = [name for name in names if (out / name).exists()]
    if not damaged:
        return []
    return [
        f"{len(damaged)} shards of {out} are damaged, unfinished or of another cache and are "
        f"encoded anew: {some(damaged)}"
    ]


def write_whole(file: Path, content: bytes) -> None:
    """Write a file, unless it is there already; other processes may write the same bytes."""
    with suppress(OSError):
        if file.stat().st_size == len(content) and file.read_bytes() == content:
            return
    with output(file, "finished shards are kept", one_of_many=True) as aside:
        aside.write_bytes(content)
        sync_file(aside)


def remove_cache(out: Path, plan: CachePlan) -> None:
    """Remove the files of a cache, if one is there, and nothing else; ``plan`` takes its place.

    Raises:
        InputError: the disk refuses.
    """
    if not is_cache(out):
        return
    shards = [
        file
        for kind in ("codes", "moments")
        for ending in ("npy", "json", "origin")
        for file in out.glob(f"{kind}-*.{ending}")
    ]
    with explained(out, "the cache there is no longer whole"):
        for file in [out / INDEX_FILE, *shards, out / LABELS_FILE, out / LIST]:
            file.unlink(missing_ok=True)
    write_whole(out / PLAN_FILE, to_json(plan))
