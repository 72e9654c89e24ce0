"""The latent cache: a data set's codes or moments on disk, read at random far faster than images.

A folder of shards ``codes-00000.npy``, … (``(rows, views, L)``) or ``moments-00000.npy``, …
(``(rows, views, M, h, w)``), memory-mapped, ``labels.npy`` (int64) and ``cache.json``, which is
written last: a folder without it is not finished. :mod:`unmask.data.write_cache` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unmask.data.cache_records import UNKNOWN, CacheIndex, CachePlan, Kind, Shard, read_record
from unmask.data.mapped import MappedArray, disk_reads
from unmask.data.open_files import OpenFiles
from unmask.data.origin import read_origin
from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason
from unmask.files.digests import file_stamp
from unmask.files.verified import Verified
from unmask.tokenizers.latent_tokenizer import drawn, to_map

INDEX_FILE = "cache.json"
LABELS_FILE = "labels.npy"
PLAN_FILE = "plan.json"
Check = Literal["first-use", "always", "never"]


def _read_index(path: Path) -> CacheIndex:
    if not (path / INDEX_FILE).exists():
        raise InputError(
            f"{path} holds no finished latent cache ({INDEX_FILE} is missing); "
            "build it with `unmask cache`, which continues where it stopped"
        )
    return read_record(path / INDEX_FILE, CacheIndex)


def _mapped(
    file: Path, shape: tuple[int, ...], dtype: str, opened: Callable[[Path], MappedArray]
) -> MappedArray:
    """A file's array, which must be of this shape and type."""
    try:
        found = opened(file)
        if found.array.shape != shape or found.array.dtype != dtype:
            raise ValueError(
                f"it holds {found.array.dtype} {found.array.shape}, not {dtype} {shape}"
            )
    except DAMAGE as error:
        way = "build the cache again, which keeps the others"
        what = "is missing or damaged"
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            what, way = "cannot be read", "nothing says that it is damaged: see to disk and rights"
        raise InputError(f"{file} {what} ({reason(error)}); {way}") from error
    return found


def _digests(index: CacheIndex) -> dict[str, str]:
    digests = {shard.file: shard.digest for shard in index.shards}
    return digests | ({LABELS_FILE: index.labels_digest} if index.labels_digest else {})


def verify(path: str | Path) -> list[str]:
    """Names of the files whose bytes are not those that were written, or that belong to another.

    Reads the whole cache. Build it again: only what is named is encoded anew.

    Raises:
        InputError: no finished cache, or an altered index.
    """
    path = Path(path).expanduser()
    index, seen = _read_index(path), Verified(path)
    foreign = {shard.file for shard in index.shards if not shard.belongs_to(index.plan)}
    damaged = {name for name, digest in _digests(index).items() if not seen.look(name, digest)}
    origins = {
        shard.beside(".origin")
        for shard in index.shards
        if shard.origin and read_origin(path / shard.beside(".origin"), shard.origin) is None
    }
    records = {PLAN_FILE: CachePlan} | {shard.beside(".json"): Shard for shard in index.shards}
    altered = {name for name, kind in records.items() if not _is_whole(path / name, kind)}
    return sorted(foreign | damaged | origins | altered)


def _is_whole(file: Path, kind: type[CachePlan] | type[Shard]) -> bool:
    """Whether a record can be read, if it is there; only building needs it."""
    try:
        return not file.exists() or bool(read_record(file, kind))
    except InputError:
        return False


class LatentCache:
    """The codes or moments of a data set and its labels, at random access.

    Open one with :meth:`open`. It may be handed to the worker processes of a loader, which map
    the same pages.
    """

    def __init__(self, path: Path, index: CacheIndex, without: Collection[str] = ()) -> None:
        self.path, self.index, self.without = path, index, frozenset(without)
        plan = self.plan = index.plan
        self.class_names = plan.class_names
        self.views = plan.views
        self.grid = plan.grid
        self.length = math.prod(plan.grid)
        self._kept = [shard for shard in index.shards if shard.file not in self.without]
        self._starts = np.cumsum([0, *(shard.rows for shard in self._kept)])
        self._files = [path / shard.file for shard in self._kept]
        self._shapes = [(shard.rows, plan.views, *plan.item) for shard in self._kept]
        self._open = OpenFiles(MappedArray)
        self._cold = True  # whether the next reading will probably wait for a disk
        self.labels = self._read_labels() if index.labels_digest else torch.full((len(self),), -1)
        """``(N,)`` int64; -1 throughout if unlabelled."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        tokenizer_identity: str | None = None,
        accept_unknown: bool = False,
        without: Collection[str] = (),
        check: Check = "first-use",
        tell: Callable[[str], object] = lambda line: None,
    ) -> LatentCache:
        """Open a finished cache.

        Args:
            path: its folder.
            tokenizer_identity: of the tokenizer that will decode; None skips the check.
            accept_unknown: take a converted cache whose tokenizer nobody named for one of this.
            without: files of shards to leave out, such as damaged ones whose images are gone;
                their rows do not count.
            check: when to compare the files with their hashes. "first-use": those that were not
                compared since they last changed, which reads each file once in its life. "always"
                and "never" say what they mean.
            tell: called with a line when the comparison begins.

        Raises:
            InputError: not there, not finished, of another tokenizer, or with a file missing,
                damaged, of the wrong size, or of another cache.
        """
        path = Path(path).expanduser()
        index = _read_index(path)
        made_by = index.plan.encoding.tokenizer
        accepted = accept_unknown and made_by.startswith(UNKNOWN)
        if tokenizer_identity not in (None, made_by) and not accepted:
            raise InputError(
                f"the cache {path} was made by tokenizer {made_by}, not by {tokenizer_identity}; "
                "use that tokenizer or build another cache"
            )
        if absent := set(without) - {shard.file for shard in index.shards}:
            raise InputError(f"{path} has no shard {min(absent)!r} to leave out")
        for shard in index.shards:
            if shard.file not in without:
                _check_size(path / shard.file, shard, index.plan)
        _check_content(path, index, without, check, tell)
        return cls(path, index, without)

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path, CacheIndex, frozenset[str]]]:
        """Pickle no open file, since another process maps the files itself."""
        return LatentCache, (self.path, self.index, self.without)

    def __len__(self) -> int:
        """N, images in the cache."""
        return int(self._starts[-1])

    @property
    def kind(self) -> Kind:
        """Whether it holds codes or moments."""
        return self.plan.encoding.kind

    @property
    def channels(self) -> int:
        """C of the latents; 0 of codes."""
        return self.plan.encoding.channels

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Key and reason of each image that could not be read when the cache was built."""
        return [pair for shard in self.index.shards for pair in shard.skipped]

    def stored(self, rows: Tensor, views: Tensor) -> Tensor:
        """What the tokenizer's ``encode`` gave of some images.

        Args:
            rows: ``(n,)`` int64 in [0, N), any order, repeats allowed.
            views: ``(n,)`` int64, 0 for the image, 1 for its mirror image; or numbers of crops.

        Returns:
            ``(n, L)`` int64 codes in [0, V), or ``(n, M, h, w)`` float32 moments, neither scaled
            nor clamped.
        """
        wanted, plan, codes = rows.numpy(), self.plan, self.plan.encoding.codes
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self)}")
        which = np.searchsorted(self._starts, wanted, side="right") - 1  # (n,) the shard
        local = (wanted - self._starts[which]) * self.views + views.numpy()
        order = which.argsort(kind="stable")  # (n,) by shard
        numbers, starts = np.unique(which[order], return_index=True)
        parts = [*zip(numbers.tolist(), np.split(order, starts[1:]), strict=False)]
        out = np.empty((len(wanted), *plan.item), np.int64 if codes else np.float32)
        size = math.prod(plan.item) * np.dtype(plan.dtype).itemsize
        before = disk_reads()
        for number, here in parts if self._cold else ():
            self._shard(number).fetch(local[here].tolist(), size)
        for number, here in parts:
            items = self._shard(number).array.reshape(-1, *plan.item)
            out[here] = items.take(local[here], axis=0)
        self._cold = disk_reads() != before
        if codes and out.max(initial=0) >= codes:
            number = next(number for number, here in parts if out[here].max() >= codes)
            raise InputError(
                f"{self._files[number]} holds the code {out.max()}, the tokenizer has {codes}; "
                "build the cache again"
            )
        return torch.from_numpy(out)

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """Tokens as the tokenizer's ``tokens`` makes them of what is stored, to the bit.

        Args:
            rows: ``(n,)`` int64, see :meth:`stored`.
            views: ``(n,)`` int64, see :meth:`stored`.
            noise: ``(n, L, C)`` standard normal, with which latents are drawn; None takes their
                mean. Not looked at where there is no chance.

        Returns:
            ``(n, L)`` int64 codes, or ``(n, L, C)`` float32 scaled latents.

        Raises:
            InputError: noise of another shape.
        """
        stored, made = self.stored(rows, views), self.plan.encoding
        if not made.channels:
            return stored
        placed = None
        if noise is not None and made.moment_channels != made.channels:
            placed = to_map(noise, made.channels, self.grid)  # (n, C, h, w)
        return drawn(stored, placed, channels=made.channels, scale=made.scale).contiguous()

    def _shard(self, number: int) -> MappedArray:
        """``(rows, views, *item)``, mapped."""
        return _mapped(self._files[number], self._shapes[number], self.plan.dtype, self._open)

    def _read_labels(self) -> Tensor:
        ends = list(accumulate(shard.rows for shard in self.index.shards))
        every = _mapped(self.path / LABELS_FILE, (ends[-1],), "int64", MappedArray).array
        parts = zip(np.split(every, ends[:-1]), self.index.shards, strict=True)
        own = [part for part, shard in parts if shard.file not in self.without]
        labels = np.concatenate([np.empty(0, np.int64), *own])
        classes = len(self.class_names)
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(
                f"{self.path / LABELS_FILE} holds labels from {labels.min()} to {labels.max()}, "
                f"the cache has {classes} classes; build the cache again"
            )
        return torch.from_numpy(labels)


def _check_size(file: Path, shard: Shard, plan: CachePlan) -> None:
    found = file.stat().st_size if file.exists() else 0
    if found != shard.size:
        raise InputError(
            f"{file} has {found} bytes, not {shard.size}; build the cache again, which "
            "keeps the other shards, or open it without this one"
        )
    if not 0 <= shard.rows * plan.item_bytes <= found:
        raise InputError(f"{file} has {found} bytes, too few for {shard.rows} images")
    if not shard.belongs_to(plan):
        raise InputError(
            f"{file} belongs to a cache of tokenizer {shard.tokenizer or 'unknown'}, not to this "
            "one; build the cache again, which keeps its own shards"
        )


def _check_content(
    path: Path,
    index: CacheIndex,
    without: Collection[str],
    check: Check,
    tell: Callable[[str], object],
) -> None:
    """Compare files with their hashes."""
    digests = {name: d for name, d in _digests(index).items() if name not in without}
    seen = Verified(path)
    wanted = seen.unknown(digests) if check == "first-use" else list(digests)
    if check == "never" or not wanted:
        return
    size = sum(file_stamp(path / name)[0] for name in wanted)
    tell(
        f"comparing {len(wanted)} files of {path} with their hashes, {size / 2**20:,.0f} MiB; "
        "--verify-cache never leaves it out"
    )
    if damaged := seen.damaged({n: digests[n] for n in wanted}, anew=check == "always"):
        raise InputError(
            f"{path} holds {len(damaged)} files that are not those that were built: "
            f"{', '.join(damaged[:5])}; build it again, which encodes these anew"
        )
