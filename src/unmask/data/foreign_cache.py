"""The caches of other projects, one .npz file an image, as caches of this library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from unmask.data.build_cache import MOST_CODES, CacheLayout, encoding_of, plan_cache
from unmask.data.cache import ARRAY_DAMAGE, UNKNOWN, CachePlan, Encoding
from unmask.data.classes import names_for
from unmask.data.decoding import UnreadableImageError
from unmask.data.write_cache import CacheReport, write_cache
from unmask.errors import InputError, did_you_mean
from unmask.tokenizers.latents import ContinuousTokenizer
from unmask.tokenizers.tokenizer import Tokenizer, fill_grid

NPZ_DAMAGE = (*ARRAY_DAMAGE, BadZipFile, RuntimeError)  # what damaged zip files raise besides


@dataclass(frozen=True, kw_only=True)
class ForeignFormat:
    """How a project lays its cache out, and what made it unless a tokenizer is given."""

    arrays: tuple[str, str]
    """Names of the image and of its mirror image in a file; the second may be missing in all."""
    by_class: bool
    """One folder a class, whose sorted names are the labels; else the array ``y`` is, if any."""
    encoding: Encoding
    """Of the published tokenizer, whose weights the files do not tell."""
    stride: int
    """Of that tokenizer."""
    scaled: float = 1.0
    """What the moments in the files are multiplied by."""

    @property
    def ndim(self) -> int:
        """Of the arrays: ``(L,)`` codes or ``(M, h, w)`` moments."""
        return 1 if self.encoding.kind == "codes" else 3


KL16 = Encoding(kind="moments", tokenizer="", channels=16, moment_channels=32, scale=0.2325)
DC_AE = Encoding(kind="moments", tokenizer="", channels=32, moment_channels=32, scale=0.3189)
CODES = Encoding(kind="codes", tokenizer="", codes=MOST_CODES)
MOMENTS = ("moments", "moments_flip")
FORMATS = {
    "mar": ForeignFormat(arrays=MOMENTS, by_class=True, encoding=KL16, stride=16),
    "emigm": ForeignFormat(arrays=MOMENTS, by_class=True, encoding=KL16, stride=16),
    "emigm-512": ForeignFormat(
        arrays=MOMENTS, by_class=True, encoding=DC_AE, stride=32, scaled=0.3189
    ),
    "maskgit-pytorch": ForeignFormat(
        arrays=("idx", "idx_flip"), by_class=False, encoding=CODES, stride=16
    ),
}
"""mar: main_cache.py; emigm: the same at 256 pixels, DC-AE's scaled latents at 512;
maskgit-pytorch: make_cache.py."""


class _ForeignRows:
    """The files of a foreign cache, in the order of their names, as ``CacheRows``."""

    split_rule = "all files that were there"
    batch_size = 64
    plan: CachePlan
    """Made from what the files say of themselves."""

    def __init__(self, path: Path, name: str) -> None:
        form = self.form = FORMATS[name]
        self.path, self.name = path, f"{path.resolve().name} ({name})"
        found = path.glob("*/*.npz" if form.by_class else "*.npz")
        self.keys = sorted(file.relative_to(path).as_posix() for file in found)
        if not self.keys:
            wanted = "CLASS/NAME.npz" if form.by_class else "NAME.npz"
            raise InputError(f"{path} holds no file {wanted}, as a cache of {name} does")
        if form.by_class:
            self.class_names = tuple(sorted(at.name for at in path.iterdir() if at.is_dir()))
            ranks = {folder: rank for rank, folder in enumerate(self.class_names)}
            self.labels: list[int | None] = [ranks[key.partition("/")[0]] for key in self.keys]
        else:
            self.labels = [self._own_label(key) for key in self.keys]
            self.class_names = names_for(self.labels, (), where=str(path))

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        return self.keys[row]

    def label(self, row: int) -> int | None:
        return self.labels[row]

    def first(self) -> tuple[tuple[int, ...], int]:
        """Shape of the arrays and number of views, by the first file that can be read."""
        for key in self.keys:
            try:
                straight, mirrored = self._arrays(key, self.form.arrays)
            except UnreadableImageError:
                continue
            if straight is not None and straight.ndim == self.form.ndim:
                return straight.shape, 1 if mirrored is None else 2
        raise InputError(
            f"no file of {self.path} holds an array {self.form.arrays[0]!r} of {self.form.ndim} "
            "dimensions; is it the cache of another project?"
        )

    def read(self, row: int) -> Tensor:
        """``(views, *item)``."""
        key, names = self.keys[row], self.form.arrays[: self.plan.views]
        arrays = dict(zip(names, self._arrays(key, names), strict=True))
        for name, array in arrays.items():
            if array is None or array.shape != self.plan.item:
                found = "missing" if array is None else f"of shape {array.shape}"
                raise UnreadableImageError(key, f"{name} is {found}, not {self.plan.item}")
            if not self._plausible(array):
                raise UnreadableImageError(key, f"{name} holds what no tokenizer makes")
        views = torch.stack([torch.from_numpy(array) for array in arrays.values()])
        return views / self.form.scaled if self.form.scaled != 1 else views

    def pack(self, items: list[Tensor]) -> Tensor:
        return torch.stack(items)

    def _arrays(self, key: str, names: Sequence[str]) -> list[np.ndarray | None]:
        """Arrays of one file, None for those that it has not."""
        try:
            with np.load(self.path / key, allow_pickle=False) as inside:
                return [inside.get(name) for name in names]
        except NPZ_DAMAGE as error:
            raise UnreadableImageError(key, str(error)) from error

    def _own_label(self, key: str) -> int | None:
        try:
            (label,) = self._arrays(key, ["y"])
            return None if label is None else int(label.item())
        except ValueError:  # of a damaged file, which is left out later and needs none
            return 0

    def _plausible(self, array: np.ndarray) -> bool:
        if self.plan.encoding.kind == "moments":
            return array.dtype.kind == "f" and bool(np.isfinite(array).all())
        whole = array.dtype.kind in "iu"
        return whole and 0 <= array.min() <= array.max() < self.plan.encoding.codes


def convert_cache(
    path: str | Path,
    name: str,
    *,
    out: str | Path,
    tokenizer: Tokenizer | ContinuousTokenizer | None = None,
    precision: Literal["float32", "float16"] = "float32",
    shard_size: int | None = None,
    progress: bool = True,
) -> CacheReport:
    """Write another project's cache as one of this library, or what is left to be written.

    Args:
        path: its folder.
        name: a key of :data:`FORMATS`.
        out: folder of the new cache, new, empty or begun by the same call.
        tokenizer: that made it. None: the identity is noted as unknown, and whoever opens the cache
            for a tokenizer must accept that.
        precision: of moments.
        shard_size: as of :class:`~unmask.data.build_cache.CacheLayout`.
        progress: show a bar.

    Returns:
        What was done; damaged files are left out and named.

    Raises:
        InputError: no such files there, or a tokenizer that makes something else.
    """
    if name not in FORMATS:
        raise InputError(f"unknown cache format {name!r}; {did_you_mean(name, FORMATS)}")
    rows, form = _ForeignRows(Path(path).expanduser(), name), FORMATS[name]
    shape, views = rows.first()
    made = replace(form.encoding, tokenizer=f"{UNKNOWN} (converted from {name})")
    if tokenizer is not None:
        made = encoding_of(tokenizer)
    height, width = shape[1:] if form.ndim == 3 else fill_grid(shape[0], None, "codes")
    layout = CacheLayout(
        image_size=height * (tokenizer.stride if tokenizer else form.stride),
        flip=views == 2,
        precision=precision,
        shard_size=shard_size,
    )
    rows.plan = plan_cache(made, rows, layout, grid=(height, width))
    if made.kind != form.encoding.kind or rows.plan.item != shape:
        raise InputError(
            f"{path} holds {form.encoding.kind} of shape {shape}, the tokenizer makes {made.kind} "
            f"of shape {rows.plan.item}; give the one that made the files"
        )
    return write_cache(rows, out=out, progress=progress)
