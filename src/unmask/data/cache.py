"""The latent cache: a data set's codes or moments on disk, read at random far faster than images.

A folder of shards ``codes-00000.npy``, … (``(rows, views, L)``) or ``moments-00000.npy``, …
(``(rows, views, M, h, w)``), memory-mapped, ``labels.npy`` (int64) and ``cache.json``, which is
written last: a folder without it is not finished. :mod:`unmask.data.write_cache` writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeVar

import cattrs
import numpy as np
import torch
from torch import Tensor

from unmask.damage import DAMAGE
from unmask.errors import InputError
from unmask.image_size import ImageSize, accept_sizes
from unmask.tokenizers.latents import posterior, to_map, to_tokens

INDEX_FILE = "cache.json"
LABELS_FILE = "labels.npy"
UNKNOWN = "unknown"  # how the identity begins of a tokenizer that nobody named
Kind = Literal["codes", "moments"]
Dtype = Literal["uint16", "float32", "float16"]
Record = TypeVar("Record", bound="Encoding | CachePlan | Shard | CacheIndex")
RECORDS = cattrs.Converter()
accept_sizes(RECORDS)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What a tokenizer makes of an image."""

    kind: Kind
    """What is stored."""
    tokenizer: str
    """Identity of the tokenizer."""
    codes: int = 0
    """V; codes lie in [0, V). 0 of moments."""
    channels: int = 0
    """C, numbers a token. 0 of codes."""
    moment_channels: int = 0
    """M: 2C, mean and log variance; or C, the latents of a deterministic encoder. 0 of codes."""
    scale: float = 1.0
    """Of the stored to the latents that are read."""


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What decides every number of a cache; known before the first image is encoded."""

    format: Literal[2] = 2
    """Version of the layout."""
    encoding: Encoding
    """What is stored of an image."""
    dtype: Dtype
    """Of the shards: uint16 of codes."""
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
    image_size: ImageSize
    """Of the encoded images, in pixels: one number for squares, or height and width."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    views: int
    """Of each image; of centre crops 2 with the mirrored image, which is encoded as such."""
    cut: Literal["center", "crops", "mirrored crops"] = "center"
    """What a view is: centre crop or mirror image, or a random crop."""
    shard_size: int
    """Images a shard, before unreadable ones are left out."""

    @property
    def item(self) -> tuple[int, ...]:
        """Shape of what is stored of a view: ``(L,)`` codes or ``(M, h, w)`` moments."""
        if self.encoding.kind == "codes":
            return (math.prod(self.grid),)
        return (self.encoding.moment_channels, *self.grid)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished file of codes or moments."""

    file: str
    """Its name in the folder."""
    rows: int
    """Images in it."""
    size: int
    """Bytes of the file."""
    digest: str
    """blake2b of the file."""
    labels: tuple[int, ...]
    """One a row; empty if unlabelled, and in the index, which has a file of its own for them."""
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of each image that could not be read."""


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """The content of ``cache.json``."""

    plan: CachePlan
    """What the shards were made from."""
    shards: tuple[Shard, ...]
    """In the order of the rows."""
    labels_digest: str
    """blake2b of the file of labels; empty if unlabelled."""


def digest_of(content: bytes) -> str:
    """blake2b, 32 hexadecimal digits."""
    return blake2b(content, digest_size=16).hexdigest()


def _text(content: dict[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf8", "replace")


def to_json(record: Encoding | CachePlan | Shard | CacheIndex) -> bytes:
    """A record with a checksum of the rest of its text, so that no bit of it flips unseen."""
    content = asdict(record)
    return _text({"checksum": digest_of(_text(content)), **content})


def read_record(file: Path, kind: type[Record]) -> Record:
    """What :func:`to_json` wrote.

    Raises:
        InputError: not there, altered since, or of another format.
    """
    try:
        content = json.loads(file.read_text(encoding="utf8"))
        if content.pop("checksum") != digest_of(_text(content)):
            raise ValueError("altered")
        return RECORDS.structure(content, kind)
    except (cattrs.BaseValidationError, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{file} is damaged or of another format; delete it and build the cache again, which "
            "keeps what is whole"
        ) from None


def _read_index(path: Path) -> CacheIndex:
    if not (path / INDEX_FILE).exists():
        raise InputError(
            f"{path} holds no finished latent cache ({INDEX_FILE} is missing); "
            "build it with `unmask cache`, which continues where it stopped"
        )
    return read_record(path / INDEX_FILE, CacheIndex)


def _load(file: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A mapped array, which must be of this shape and type."""
    try:
        # A plain array over the map: the subclass np.memmap costs microseconds at every access.
        array = np.asarray(np.load(file, mmap_mode="r"))
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"it holds {array.dtype} {array.shape}, not {dtype} {shape}")
    except DAMAGE as error:
        raise InputError(
            f"{file} is missing or damaged ({error}); delete it and build the cache again, which "
            "keeps the others"
        ) from error
    return array


def verify(path: str | Path) -> list[str]:
    """Names of the files whose bytes are not those that were written; empty when all is well.

    Reads the whole cache. Delete what is named and build again: only that is encoded anew.

    Raises:
        InputError: no finished cache, or an altered index.
    """
    path = Path(path).expanduser()
    index = _read_index(path)
    digests = {shard.file: shard.digest for shard in index.shards}
    if index.labels_digest:
        digests[LABELS_FILE] = index.labels_digest
    return [
        name
        for name, digest in digests.items()
        if not (path / name).is_file() or digest_of((path / name).read_bytes()) != digest
    ]


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
        kept = [shard for shard in index.shards if shard.file not in self.without]
        self._starts = np.cumsum([0, *(shard.rows for shard in kept)])
        self.labels = torch.full((len(self),), -1)
        """``(N,)`` int64; -1 throughout if unlabelled."""
        if index.labels_digest:
            ends = list(accumulate(shard.rows for shard in index.shards))
            every = _load(path / LABELS_FILE, (ends[-1],), "int64")
            parts = zip(np.split(every, ends[:-1]), index.shards, strict=True)
            own = [part for part, shard in parts if shard in kept]
            self.labels = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *own]))
        self._maps = [self._map(shard) for shard in kept]

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        tokenizer_identity: str | None = None,
        accept_unknown: bool = False,
        without: Collection[str] = (),
    ) -> LatentCache:
        """Open a finished cache.

        Args:
            path: its folder.
            tokenizer_identity: of the tokenizer that will decode; None skips the check.
            accept_unknown: take a converted cache whose tokenizer nobody named for one of this.
            without: files of shards to leave out, such as damaged ones whose images are gone;
                their rows do not count.

        Raises:
            InputError: not there, not finished, of another tokenizer, or with a file missing,
                damaged or of the wrong size.
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
            file = path / shard.file
            found = file.stat().st_size if file.exists() else 0
            if found != shard.size and shard.file not in without:
                raise InputError(
                    f"{file} has {found} bytes, not {shard.size}; build the cache again, which "
                    "keeps the other shards, or open it without this one"
                )
        return cls(path, index, without)

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path, CacheIndex, frozenset[str]]]:
        """Another process maps the files itself."""
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

    def codes(self, rows: Tensor, views: Tensor) -> Tensor:
        """The codes of some images.

        Args:
            rows: ``(n,)`` int64 in [0, N), any order, repeats allowed.
            views: ``(n,)`` int64, 0 for the image, 1 for its mirror image; or numbers of crops.

        Returns:
            ``(n, L)`` int64 in [0, V).

        Raises:
            InputError: the cache holds moments.
        """
        return torch.from_numpy(self._read("codes", rows, views).astype(np.int64))

    def moments(self, rows: Tensor, views: Tensor) -> Tensor:
        """What the tokenizer's ``moments`` said of some images, arguments as of :meth:`codes`.

        Returns:
            ``(n, M, h, w)`` float32, neither scaled nor clamped.

        Raises:
            InputError: the cache holds codes.
        """
        return torch.from_numpy(self._read("moments", rows, views)).float()

    def latents(self, rows: Tensor, views: Tensor, noise: Tensor) -> Tensor:
        """Latents as the tokenizer's ``sample`` makes them, to the bit.

        Args:
            rows: as of :meth:`codes`.
            views: as of :meth:`codes`.
            noise: ``(n, L, C)`` standard normal; not looked at where the encoder is deterministic.

        Returns:
            ``(n, L, C)`` float32, scaled.

        Raises:
            InputError: the cache holds codes, or noise of another shape.
        """
        moments = self.moments(rows, views)
        encoding = self.plan.encoding
        if encoding.moment_channels != encoding.channels:
            drawn = to_map(noise, encoding.channels, self.grid)
            moments = posterior(moments).sample(drawn)
        return to_tokens(moments * encoding.scale).contiguous()

    def _read(self, kind: Kind, rows: Tensor, views: Tensor) -> np.ndarray:
        """``(n, *item)`` of the stored type."""
        if kind != self.kind:
            raise InputError(f"{self.path} is a cache of {self.kind}, not of {kind}; build another")
        wanted = rows.numpy()
        which = np.searchsorted(self._starts, wanted, side="right") - 1  # (n,) the shard
        local = (wanted - self._starts[which]) * self.views + views.numpy()
        out = np.empty((len(wanted), *self.plan.item), self.plan.dtype)
        for shard in np.unique(which):
            here = np.flatnonzero(which == shard)
            out[here] = self._maps[shard].take(local[here], axis=0)
        return out

    def _map(self, shard: Shard) -> np.ndarray:
        shape = (shard.rows, self.views, *self.plan.item)
        mapped = _load(self.path / shard.file, shape, self.plan.dtype)
        return mapped.reshape(-1, *self.plan.item)  # (rows * views, *item)
