"""Encoding a data set once, so that training reads ids instead of images.

Any number of processes may build one cache, each its own shards; a restarted build keeps what is
finished. A shard counts once its note (``codes-00000.json``) is there, the cache once
``cache.json`` is; both are written aside and renamed.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path

import cattrs
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from unmask.data.cache import INDEX_FILE, LABELS_FILE, CacheIndex, CachePlan, Shard
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.tokenizers.tokenizer import Tokenizer

PLAN_FILE = "plan.json"
MOST_CODES = 1 << 16  # ids are stored as uint16


@dataclass(frozen=True, kw_only=True)
class CacheLayout:
    """What is encoded and how it lies on disk."""

    image_size: int
    """Side of the centre crop that is encoded, in pixels."""
    flip: bool = True
    """Also encode the mirror image of each."""
    shard_size: int = 65536
    """Images a shard: 64 MiB at 256 tokens and two views."""
    batch_size: int = 64
    """Images encoded at a time."""

    def __post_init__(self) -> None:
        """Reject sizes below one."""
        for name in ("image_size", "shard_size", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What one process did."""

    path: Path
    """Folder of the cache."""
    complete: bool
    """False while other processes still encode their shards."""
    rows: int
    """Images in all shards finished so far."""
    written: int
    """Shards that this process encoded."""
    kept: int
    """Shards of this process that were finished before."""
    skipped: list[tuple[str, str]]
    """Key and reason of each image that could not be read."""
    seconds: float
    """Duration of this call."""


def source_hash(source: ImageSource) -> str:
    """32 hexadecimal digits that stand for the keys and labels of a source, in their order."""
    digest = blake2b(digest_size=16)
    for row in range(len(source)):
        digest.update(f"{source.key(row)}\0{source.label(row)}\n".encode("utf8", "surrogateescape"))
    return digest.hexdigest()


def plan_cache(tokenizer: Tokenizer, source: ImageSource, layout: CacheLayout) -> CachePlan:
    """What a cache of these parts will be.

    Raises:
        InputError: the size does not fit the tokenizer, or it has more codes than uint16 holds.
    """
    if tokenizer.codes > MOST_CODES:
        raise InputError(
            f"the tokenizer has {tokenizer.codes} codes, a cache stores at most {MOST_CODES}; "
            "train from the images"
        )
    return CachePlan(
        tokenizer=tokenizer.identity,
        codes=tokenizer.codes,
        source=source.name,
        source_hash=source_hash(source),
        images=len(source),
        split_rule=source.split_rule,
        class_names=source.class_names,
        image_size=layout.image_size,
        grid=tokenizer.grid(layout.image_size),
        views=2 if layout.flip else 1,
        shard_size=layout.shard_size,
    )


def _write_whole(file: Path, content: bytes) -> None:
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    with aside.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    aside.replace(file)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()


def _to_json(record: CachePlan | Shard | CacheIndex) -> bytes:
    return json.dumps(asdict(record), ensure_ascii=False, indent=1).encode("utf8", "replace")


def _claim(out: Path, plan: CachePlan) -> None:
    """Make sure that ``out`` is free or holds the beginnings of the same cache."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder for the cache")
    file = out / PLAN_FILE
    if not file.exists():
        # Another process of this build may be writing the plan at this moment.
        if out.exists() and any(PLAN_FILE not in entry.name for entry in out.iterdir()):
            raise InputError(f"{out} holds other files; give a new or empty folder for the cache")
        out.mkdir(parents=True, exist_ok=True)
        _write_whole(file, _to_json(plan))
        return
    try:
        found = cattrs.structure(json.loads(file.read_text(encoding="utf8")), CachePlan)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged; delete the folder or give another") from error
    for name in (field.name for field in fields(CachePlan)):
        there, wanted = getattr(found, name), getattr(plan, name)
        if there != wanted:
            raise InputError(
                f"{out} holds a cache with {name} {there!r}, not {wanted!r}; "
                "give another folder or delete that one"
            )


def _finished(out: Path, number: int) -> Shard | None:
    """The note of a shard, if it is there and its file has the size that it states."""
    note, file = out / f"codes-{number:05d}.json", out / f"codes-{number:05d}.npy"
    if not note.exists() or not file.exists():
        return None
    try:
        shard = cattrs.structure(json.loads(note.read_text(encoding="utf8")), Shard)
    except (cattrs.BaseValidationError, ValueError, TypeError):
        return None
    return shard if file.stat().st_size == shard.size else None


def _read_ahead(
    source: ImageSource, transform: Transform, rows: range, batch_size: int
) -> Iterator[list[Tensor | UnreadableImageError]]:
    """Batches of transformed images, decoded in threads while the one before is encoded."""

    def _read(row: int) -> Tensor | UnreadableImageError:
        try:
            return transform(source.image(row))
        except UnreadableImageError as error:
            return error

    groups = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    pending: list[Future[Tensor | UnreadableImageError]] = []
    with ThreadPoolExecutor() as pool:
        for group in [*groups, range(0)]:
            following = [pool.submit(_read, row) for row in group]
            if pending:
                yield [future.result() for future in pending]
            pending = following


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Makes the shards of one build."""

    tokenizer: Tokenizer
    source: ImageSource
    plan: CachePlan
    batch_size: int
    device: torch.device | None

    def rows(self, number: int) -> range:
        """Rows of the source that a shard covers."""
        return range(self.plan.images)[number * self.plan.shard_size :][: self.plan.shard_size]

    def write_shard(self, out: Path, number: int, progress: Progress) -> None:
        """Encode one shard, then write its file, then its note."""
        rows = self.rows(number)
        channels = self.tokenizer.image_channels
        transform = Transform(size=self.plan.image_size, channels=channels)
        length = self.plan.grid[0] * self.plan.grid[1]
        encoded = [np.empty((0, self.plan.views, length), np.uint16)]
        outcomes: list[UnreadableImageError | None] = []
        for batch in _read_ahead(self.source, transform, rows, self.batch_size):
            good = [image for image in batch if isinstance(image, Tensor)]
            outcomes += [None if isinstance(image, Tensor) else image for image in batch]
            encoded += [self.encode(torch.stack(good))] if good else []
            progress.advance(progress.task_ids[0], len(batch))
        kept = [row for row, error in zip(rows, outcomes, strict=True) if error is None]
        labels = [self.source.label(row) for row in kept]
        content = _npy(np.concatenate(encoded))
        file = f"codes-{number:05d}.npy"
        _write_whole(out / file, content)
        shard = Shard(
            file=file,
            rows=len(kept),
            size=len(content),
            digest=_digest(content),
            labels=tuple(label for label in labels if label is not None),
            skipped=tuple((error.key, error.reason) for error in outcomes if error is not None),
        )
        _write_whole(out / f"codes-{number:05d}.json", _to_json(shard))

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> np.ndarray:
        """``(B, C, S, S)`` uint8 to ``(B, views, L)`` uint16."""
        images = pixels.to(self.device).float() / 255
        views = [images, images.flip(-1)][: self.plan.views]
        ids = torch.stack([self.tokenizer.encode(view) for view in views], 1).cpu()
        low, high = (int(v) for v in ids.aminmax())
        assert 0 <= low <= high < self.plan.codes, f"ids {low} to {high} of {self.plan.codes}"
        return ids.numpy().astype(np.uint16)


def _finish(out: Path, plan: CachePlan, shards: list[Shard]) -> None:
    if not sum(shard.rows for shard in shards):
        raise InputError(f"none of the {plan.images} images of {plan.source} can be read")
    digest = ""
    if plan.class_names:
        labels = _npy(np.array([label for shard in shards for label in shard.labels], np.int64))
        digest = _digest(labels)
        _write_whole(out / LABELS_FILE, labels)
    index = CacheIndex(plan=plan, shards=tuple(shards), labels_digest=digest)
    _write_whole(out / INDEX_FILE, _to_json(index))


def build_cache(
    tokenizer: Tokenizer,
    source: ImageSource,
    *,
    out: str | Path,
    layout: CacheLayout,
    device: torch.device | None = None,
    progress: bool = True,
    rank: int = 0,
    world: int = 1,
) -> CacheReport:
    """Encode every image of a source, or what is left of a build that was stopped.

    Args:
        tokenizer: makes the ids.
        source: the images; a centre crop of each is encoded, with its mirror image if asked.
        out: folder of the cache, new, empty or begun by the same build.
        layout: image size, views, shards.
        device: where the tokenizer's weights lie; None if they were never moved.
        progress: show a bar.
        rank: of this process, in [0, world); it encodes every ``world``-th shard.
        world: number of processes; whichever ends last finishes the cache.

    Returns:
        What this process did; images that could not be read are left out and named.

    Raises:
        InputError: ``out`` holds something else, the size does not fit the tokenizer, or no image
            can be read.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    start, out = time.monotonic(), Path(out).expanduser()
    plan = plan_cache(tokenizer, source, layout)
    _claim(out, plan)
    encoder = _Encoder(
        tokenizer=tokenizer,
        source=source,
        plan=plan,
        batch_size=layout.batch_size,
        device=device,
    )
    numbers = range(-(-plan.images // plan.shard_size))
    own = [number for number in numbers if number % world == rank]
    missing = [number for number in own if _finished(out, number) is None]
    with Progress(disable=not progress, transient=True) as bar:
        bar.add_task("encoding images", total=sum(len(encoder.rows(n)) for n in missing))
        for number in missing:
            encoder.write_shard(out, number, bar)
    shards = [shard for number in numbers if (shard := _finished(out, number)) is not None]
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
