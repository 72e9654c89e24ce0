"""The latent cache: a data set's token ids on disk, read at random many times faster than images.

A folder of ``codes-00000.npy``, … (uint16, ``(rows, views, L)``, memory-mapped), ``labels.npy``
(int64) and ``cache.json``, which is written last: a folder without it is not finished.
:mod:`unmask.data.build_cache` writes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import cattrs
import numpy as np
import torch
from torch import Tensor

from unmask.errors import InputError

INDEX_FILE = "cache.json"
LABELS_FILE = "labels.npy"
FORMAT = 1
HASH_BLOCK = 1 << 22  # bytes read at a time


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What decides every id of a cache; known before the first image is encoded."""

    format: int = FORMAT
    """Version of the layout."""
    tokenizer: str
    """Identity of the tokenizer that made the ids."""
    codes: int
    """V; ids lie in [0, V)."""
    source: str
    """Name of the data set and its side."""
    source_hash: str
    """Hash of the keys and labels of all images."""
    images: int
    """Images of the data set, readable or not."""
    split_rule: str
    """How train and val were told apart."""
    class_names: tuple[str, ...]
    """In label order; empty if unlabelled."""
    image_size: int
    """Side of the encoded images, in pixels."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    views: int
    """2 with the mirrored image, else 1."""
    shard_size: int
    """Images a shard, before unreadable ones are left out."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished file of ids."""

    file: str
    """Its name in the folder."""
    rows: int
    """Images in it."""
    size: int
    """Bytes of the file."""
    digest: str
    """blake2b of the file."""
    labels: tuple[int, ...]
    """One a row; empty if unlabelled."""
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of each image that could not be read."""


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """The content of ``cache.json``."""

    plan: CachePlan
    """What the ids were made from."""
    shards: tuple[Shard, ...]
    """In the order of the rows."""
    labels_digest: str
    """blake2b of the file of labels; empty if unlabelled."""


def file_digest(file: Path) -> str:
    """blake2b of a file's bytes, 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    with file.open("rb") as opened:
        while block := opened.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_index(path: Path) -> CacheIndex:
    file = path / INDEX_FILE
    if not file.exists():
        raise InputError(
            f"{path} holds no finished latent cache ({INDEX_FILE} is missing); "
            "build it with `unmask cache`, which continues where it stopped"
        )
    try:
        return cattrs.structure(json.loads(file.read_text(encoding="utf8")), CacheIndex)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise InputError(
            f"{file} is damaged or of another format; build the cache again"
        ) from error


def _read_labels(file: Path, count: int) -> Tensor:
    try:
        labels = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is missing or damaged; build the cache again") from error
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise InputError(f"{file} holds {labels.shape} labels, not ({count},); build again")
    return torch.from_numpy(labels)


class LatentCache:
    """The ids and labels of a data set, at random access.

    Open one with :meth:`open`. It may be handed to the worker processes of a loader, which map
    the same pages.
    """

    def __init__(self, path: Path, index: CacheIndex) -> None:
        plan = index.plan
        self.path = path
        self.index = index
        self.tokenizer_identity = plan.tokenizer
        self.source = plan.source
        self.source_hash = plan.source_hash
        self.class_names = plan.class_names
        self.image_size = plan.image_size
        self.views = plan.views
        self.grid = plan.grid
        self.length = plan.grid[0] * plan.grid[1]
        self.count = sum(shard.rows for shard in index.shards)
        self.labels = torch.full((self.count,), -1)
        """``(count,)`` int64; -1 throughout if unlabelled."""
        if index.labels_digest:
            self.labels = _read_labels(path / LABELS_FILE, self.count)
        self._maps = [self._map(shard) for shard in index.shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in index.shards)])

    @classmethod
    def open(cls, path: str | Path, *, tokenizer_identity: str | None = None) -> LatentCache:
        """Open a finished cache.

        Args:
            path: its folder.
            tokenizer_identity: of the tokenizer that will decode the ids; None skips the check.

        Raises:
            InputError: not there, not finished, of another tokenizer, or with a file missing or
                of the wrong size.
        """
        path = Path(path).expanduser()
        index = _read_index(path)
        made_by = index.plan.tokenizer
        if tokenizer_identity not in (None, made_by):
            raise InputError(
                f"the cache {path} was made by tokenizer {made_by}, not by {tokenizer_identity}; "
                "use that tokenizer or build another cache"
            )
        wanted = {shard.file: shard.size for shard in index.shards}
        for name, size in wanted.items():
            file = path / name
            found = file.stat().st_size if file.exists() else 0
            if found != size:
                raise InputError(f"{file} has {found} bytes, not {size}; build the cache again")
        return cls(path, index)

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path, CacheIndex]]:
        """Another process maps the files itself."""
        return LatentCache, (self.path, self.index)

    def __len__(self) -> int:
        """Images in the cache."""
        return self.count

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Key and reason of each image that could not be read when the cache was built."""
        return [pair for shard in self.index.shards for pair in shard.skipped]

    def codes(self, rows: Tensor, views: Tensor) -> Tensor:
        """The ids of some images.

        Args:
            rows: ``(n,)`` int64 in [0, count), any order, repeats allowed.
            views: ``(n,)`` int64, 0 for the image, 1 for its mirror image.

        Returns:
            ``(n, L)`` int64 in [0, V).
        """
        wanted = rows.numpy()
        which = np.searchsorted(self._starts, wanted, side="right") - 1  # (n,) the shard
        local = (wanted - self._starts[which]) * self.views + views.numpy()
        out = np.empty((len(wanted), self.length), np.uint16)
        for shard in np.unique(which):
            here = np.flatnonzero(which == shard)
            out[here] = self._maps[shard].take(local[here], axis=0)
        return torch.from_numpy(out.astype(np.int64))

    def verify(self) -> list[str]:
        """Names of the files whose bytes are not those that were written; empty when all is well.

        Reads the whole cache. Delete a damaged shard and build again: only it is encoded anew.
        """
        digests = {shard.file: shard.digest for shard in self.index.shards}
        if self.index.labels_digest:
            digests[LABELS_FILE] = self.index.labels_digest
        return [name for name, digest in digests.items() if file_digest(self.path / name) != digest]

    def _map(self, shard: Shard) -> np.ndarray:
        # A plain array over the map: the subclass np.memmap costs microseconds at every access.
        codes = np.asarray(np.load(self.path / shard.file, mmap_mode="r"))
        expected = (shard.rows, self.views, self.length)
        if codes.shape != expected or codes.dtype != np.uint16:
            raise InputError(
                f"{self.path / shard.file} holds {codes.dtype} {codes.shape}, not uint16 "
                f"{expected}; build the cache again"
            )
        return codes.reshape(-1, self.length)  # (rows * views, L)
