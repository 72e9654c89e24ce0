"""The caches of other projects, one .npz file an image, as caches of this library."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from unmask.data.build_cache import MOST_CODES, CacheLayout, encoding_of, plan_cache
from unmask.data.cache_records import UNKNOWN, CachePlan, Encoding, Kind
from unmask.data.classes import join_classes
from unmask.data.decoding import UnreadableImageError, reading
from unmask.data.npz import read_arrays
from unmask.data.write_cache import CacheReport, CacheRows, Writing, write_cache
from unmask.errors import InputError, pick
from unmask.files.damage import DAMAGE
from unmask.files.digests import file_stamp
from unmask.networks.sizes import stated_grid, token_grid
from unmask.tokenizers.tokenizer import Tokenizer


class ForeignFormat(NamedTuple):
    """What made a project's files unless a tokenizer is given.

    Args:
        encoding: Encoding of the published tokenizer; the files do not say whose weights made them.
        stride: Pixels along one side of a token's patch, in that tokenizer.
        scaled: Factor by which the moments in the files were multiplied.
    """

    encoding: Encoding
    stride: int
    scaled: float = 1.0


KL16 = Encoding(kind="moments", tokenizer="", channels=16, moment_channels=32, scale=0.2325)
DC_AE = Encoding(kind="moments", tokenizer="", channels=32, moment_channels=32, scale=0.3189)
CODES = Encoding(kind="codes", tokenizer="", codes=MOST_CODES)
FORMATS = {
    "mar": ForeignFormat(KL16, stride=16),
    "emigm": ForeignFormat(KL16, stride=16),
    "emigm-512": ForeignFormat(DC_AE, stride=32, scaled=DC_AE.scale),
    "maskgit-pytorch": ForeignFormat(CODES, stride=16),
}
"""mar: main_cache.py; emigm: the same at 256 pixels, DC-AE's scaled latents at 512;
maskgit-pytorch: make_cache.py."""
ARRAYS: dict[Kind, tuple[str, str]] = {
    "moments": ("moments", "moments_flip"),
    "codes": ("idx", "idx_flip"),
}
"""Arrays of an image and its mirror image; the second may be missing in all files. Moments lie in
one folder a class, ``(M, h, w)``; codes in one folder, ``(L,)``, with an array ``y`` if
labelled."""


class _ForeignFiles:
    """The files of a foreign cache, in the order of their names."""

    split_rule = "all files that were there"
    notes: Sequence[str] = ()

    def __init__(self, path: Path, name: str) -> None:
        self.form, self.path, self.name = FORMATS[name], path, f"{path.resolve().name} ({name})"
        by_class = self.form.encoding.kind == "moments"
        self.names = ARRAYS[self.form.encoding.kind]
        found = path.glob("*/*.npz" if by_class else "*.npz")
        self.keys = sorted(file.relative_to(path).as_posix() for file in found)
        if not self.keys:
            wanted = "CLASS/NAME.npz" if by_class else "NAME.npz"
            raise InputError(f"{path} holds no file {wanted}, as a cache of {name} does")
        if by_class:
            self.class_names = tuple(sorted(at.name for at in path.iterdir() if at.is_dir()))
            ranks = {folder: rank for rank, folder in enumerate(self.class_names)}
            self.labels: list[int | None] = [ranks[key.partition("/")[0]] for key in self.keys]
        else:
            self.labels = [self._own_label(row) for row in range(len(self.keys))]
            classes = join_classes([self.labels], (), where=str(path))
            self.class_names, (self.labels,) = classes.names, classes.labels

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """The file's path inside the folder."""
        return self.keys[row]

    def label(self, row: int) -> int | None:
        """Class of a file's image; None if unlabelled."""
        return self.labels[row]

    def first(self) -> tuple[tuple[int, ...], int]:
        """Shape of the arrays and number of views, by the first file that can be read."""
        dimensions = 3 if self.form.encoding.kind == "moments" else 1
        for row in range(len(self.keys)):
            with suppress(UnreadableImageError):
                straight, mirrored = self._arrays(row, self.names, self.content(row))
                if straight is not None and straight.ndim == dimensions:
                    return straight.shape, 1 if mirrored is None else 2
        raise InputError(
            f"no file of {self.path} holds an array {self.names[0]!r} of {dimensions} dimensions; "
            "is it the cache of another project?"
        )

    def content(self, row: int) -> bytes:
        """The bytes of a file."""
        with reading(self.keys[row]):
            return (self.path / self.keys[row]).read_bytes()

    def stamp(self, row: int) -> tuple[int, ...]:
        """Size and time of a file."""
        return file_stamp(self.path / self.keys[row])

    def read(self, row: int, content: bytes, plan: CachePlan) -> Tensor:
        """``(views, *item)`` of a file."""
        key, names = self.keys[row], self.names[: plan.views]
        arrays = dict(zip(names, self._arrays(row, names, content), strict=True))
        for name, array in arrays.items():
            if array is None or array.shape != plan.item:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise UnreadableImageError(key, f"{name} is {found}, not {plan.item}")
            if not _plausible(array, plan.encoding):
                raise UnreadableImageError(key, f"{name} holds what no tokenizer makes")
        views = torch.stack([torch.from_numpy(array) for array in arrays.values()])
        return views / self.form.scaled if self.form.scaled != 1 else views

    def _arrays(self, row: int, names: Sequence[str], content: bytes) -> list[np.ndarray | None]:
        """Arrays of one file, None for those that it has not."""
        with reading(self.keys[row], DAMAGE):
            return read_arrays(content, names)

    def _own_label(self, row: int) -> int | None:
        try:
            (label,) = self._arrays(row, ["y"], self.content(row))
        except UnreadableImageError:  # it is left out later and needs none
            return 0
        if label is None:
            return None
        if label.size != 1 or label.dtype.kind not in "iu":
            raise InputError(
                f"{self.path / self.keys[row]}: y is {label.dtype} of shape {label.shape}, no "
                "class number"
            )
        return int(label.item())


def _plausible(array: np.ndarray, encoding: Encoding) -> bool:
    if encoding.kind == "moments":
        return array.dtype.kind == "f" and bool(np.isfinite(array).all())
    if array.dtype.kind not in "iu":
        return False
    return bool(array.min(initial=0) >= 0 and array.max(initial=0) < encoding.codes)


def convert_cache(
    path: str | Path,
    name: str,
    *,
    out: str | Path,
    tokenizer: Tokenizer | None = None,
    grid: tuple[int, int] | None = None,
    precision: Literal["float32", "float16"] = "float32",
    shard_size: int | None = None,
    **writing: Unpack[Writing],
) -> CacheReport:
    """Write another project's cache as one of this library, or what is left to be written.

    Args:
        path: its folder.
        name: a key of :data:`FORMATS`.
        out: folder of the new cache, new, empty or begun by the same call.
        tokenizer: the one that made it. None notes its identity as unknown, and whoever opens the
            cache for a tokenizer must accept that.
        grid: rows and columns of codes, whose files do not tell them; None means square.
        precision: type in which moments are stored.
        shard_size: images per shard; see :class:`~unmask.data.build_cache.CacheLayout`.
        **writing: progress, rebuilding; see :class:`unmask.data.write_cache.Writing`.

    Returns:
        What was done; damaged files are left out and named.

    Raises:
        InputError: no such files there, a tokenizer that makes something else, or tokens that do
            not fill the grid.
    """
    form = pick(FORMATS, name, "cache format")
    files = _ForeignFiles(Path(path).expanduser(), name)
    shape, views = files.first()
    made = replace(form.encoding, tokenizer=f"{UNKNOWN} (converted from {name})")
    if tokenizer is not None:
        made = encoding_of(tokenizer)
    if len(shape) == 1:
        rows, columns = token_grid(shape[0], stated_grid(shape[0], grid, str(path)))
    else:
        rows, columns = shape[1:]
    stride = tokenizer.stride if tokenizer else form.stride
    layout = CacheLayout(
        image_size=(rows * stride, columns * stride),
        flip=views == 2,
        precision=precision,
        shard_size=shard_size,
    )
    plan = plan_cache(made, files, layout, grid=(rows, columns))
    if made.kind != form.encoding.kind or plan.item != shape:
        raise InputError(
            f"{path} holds {form.encoding.kind} of shape {shape}, the tokenizer makes {made.kind} "
            f"of shape {plan.item}; give the one that made the files"
        )
    wanted = CacheRows(
        plan=plan,
        source=files,
        read=lambda row, content: files.read(row, content, plan),
        pack=torch.stack,
        batch_size=layout.batch_size,
        any_shards=shard_size is None,
    )
    return write_cache(wanted, out=out, **writing)
