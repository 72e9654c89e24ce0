"""Encoding a data set once, so that training reads codes or moments instead of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from unmask.data.cache_records import CachePlan, Dtype, Encoding
from unmask.data.decoding import decode_image
from unmask.data.source import ImageSource, Listed
from unmask.data.transform import Transform
from unmask.data.write_cache import CacheReport, CacheRows, Writing, write_cache
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.image_size import CachedCrop, ImageSize
from unmask.pictures import to_float
from unmask.ranges import Between, Ranged
from unmask.tokenizers.tokenizer import Tokenizer

MOST_CODES = 1 << 16  # codes are stored as uint16
SHARD_BYTES = 1 << 26
SHARDS = 256  # of a large data set at least, so that many processes have equally much to do
LEAST_ROWS = 1024  # of a shard, in a small one


@dataclass(frozen=True, kw_only=True)
class CacheLayout(Ranged):
    """What is encoded of each image, and how it lies on disk."""

    image_size: ImageSize | None = None
    """Size of the crop that is encoded, in pixels: one number for a square, or height and width.
    None takes the size at which the tokenizer was trained, if its run or the recipes tell it, else
    256."""
    crop: CachedCrop = "center"
    """How images get their size: "center" is ADM's centre crop, "center-bilinear" the same by
    torchvision's bilinear resize, "whole" squeezes all of the image."""
    crops: Annotated[int, Between(0, 1000)] = 0
    """Crops of random area and shape of each image that are encoded (MAGE's augmentation); 0
    encodes the one crop instead."""
    flip: bool = True
    """Also encode the mirror image of each image; with random crops, half of them are mirrored."""
    precision: Literal["float32", "float16"] = "float32"
    """Type in which moments are stored; codes are whole numbers and do not heed it."""
    shard_size: Annotated[int | None, Between(1, 10**6)] = None
    """Images per shard, one of which each process holds in memory. None takes what lies there, or
    makes 256 shards, if they hold between 1024 images and 64 MiB."""
    batch_size: Annotated[int, Between(1, 2**16)] = 32
    """Images that are encoded at once, each in all its views."""

    @property
    def size(self) -> ImageSize:
        """The image size, which somebody has chosen by now.

        Raises:
            InputError: nobody has.
        """
        if self.image_size is None:
            raise InputError("no image size is chosen; give image_size, in pixels")
        return self.image_size


def source_hash(source: Listed) -> str:
    """32 hexadecimal digits that stand for the keys and labels of a source, in their order."""
    digest = blake2b(digest_size=16)
    for row in range(len(source)):
        digest.update(f"{source.key(row)}\0{source.label(row)}\n".encode("utf8", "surrogateescape"))
    return digest.hexdigest()


def encoding_of(tokenizer: Tokenizer) -> Encoding:
    """What a tokenizer makes of an image.

    Raises:
        InputError: more codes than uint16 holds.
    """
    kind, count = tokenizer.space
    if kind == "codes" and count > MOST_CODES:
        raise InputError(
            f"the tokenizer has {count} codes, a cache stores at most {MOST_CODES}; "
            "train from the images"
        )
    return Encoding(
        kind="codes" if kind == "codes" else "moments",
        tokenizer=tokenizer.identity,
        moment_channels=tokenizer.moment_channels,
        scale=tokenizer.scale,
        **{kind: count},
    )


def plan_cache(
    encoding: Encoding, source: Listed, layout: CacheLayout, *, grid: tuple[int, int]
) -> CachePlan:
    """What a cache of these parts will be; ``grid`` is the tokenizer's for this image size."""
    views = layout.crops or (2 if layout.flip else 1)
    dtype: Dtype = "uint16" if encoding.kind == "codes" else layout.precision
    numbers = views * math.prod(grid) * max(1, encoding.moment_channels)  # an image
    fitting = max(1, SHARD_BYTES // (numbers * np.dtype(dtype).itemsize))
    usual = min(fitting, MOST_CODES, max(LEAST_ROWS, -(-len(source) // SHARDS)))
    return CachePlan(
        encoding=encoding,
        dtype=dtype,
        source=source.name,
        source_hash=source_hash(source),
        images=len(source),
        split_rule=source.split_rule,
        class_names=source.class_names,
        image_size=layout.size,
        grid=grid,
        views=views,
        cut=("mirrored crops" if layout.flip else "crops") if layout.crops else layout.crop,
        shard_size=layout.shard_size or usual,
    )


def build_cache(
    tokenizer: Tokenizer,
    source: ImageSource,
    *,
    out: str | Path,
    layout: CacheLayout,
    device: torch.device | None = None,
    **writing: Unpack[Writing],
) -> CacheReport:
    """Encode every image of a source, or what is left of a build that was stopped.

    Args:
        tokenizer: makes the codes or the moments.
        source: the images; a crop of each is encoded, with its mirror image if asked, or
            random crops, which depend on the row and on nothing else.
        out: folder of the cache, new, empty or begun by the same build.
        layout: image size, views, shards.
        device: where the tokenizer's weights lie; None if they were never moved.
        **writing: progress, processes, rebuilding; see
            :class:`unmask.data.write_cache.Writing`.

    Returns:
        What this process did; images that could not be read are left out and named.

    Raises:
        InputError: ``out`` holds something else or a cache of other images, which are named; the
            size does not fit the tokenizer; no image can be read; or the disk refuses.
    """
    grid = tokenizer.grid(layout.size)
    plan = plan_cache(encoding_of(tokenizer), source, layout, grid=grid)
    transform = Transform(size=layout.size, crop=layout.crop, channels=tokenizer.image_channels)
    random = replace(transform, crop="resized", resample="bilinear", flip=layout.flip)

    def _read(row: int, content: bytes) -> Tensor:
        """``(C, H, W)`` uint8, or ``(views, C, H, W)`` of random crops."""
        image = decode_image(content, source.key(row))
        streams = [keyed_generator("crop", row, view) for view in range(layout.crops)]
        return torch.stack([random(image, s) for s in streams]) if streams else transform(image)

    @torch.inference_mode()
    def _encode(items: list[Tensor]) -> Tensor:
        """Encode what was read of n rows; all views of all are one batch of the encoder."""
        images = to_float(torch.stack(items).to(device))
        if layout.crops:
            views = images.transpose(0, 1).flatten(0, 1)  # (views * n, C, H, W)
        else:
            views = torch.cat([images, images.flip(-1)][: plan.views])  # likewise
        return tokenizer.encode(views).cpu().unflatten(0, (plan.views, -1)).transpose(0, 1)

    rows = CacheRows(
        plan=plan,
        source=source,
        read=_read,
        pack=_encode,
        batch_size=layout.batch_size,
        any_shards=layout.shard_size is None,
    )
    return write_cache(rows, out=out, **writing)
