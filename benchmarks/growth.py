"""How costs grow with size: CPU time at n, 2n, 4n, ... and the exponent that fits them.

    python benchmarks/growth.py --report benchmarks/reports
    python benchmarks/growth.py --only cache

A line is one of ``MEASUREMENTS``: a function makes what is measured at a size in a folder of its
own and returns the call whose time is taken, the least of three. An exponent of 1 is linear, -1
halves with every doubling, 0 does not depend on the size.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import checkpoint
import numpy as np
import precision_recall
import torch
from common import parsed, parser, publish
from torch import Tensor

from unmask.data.cache import INDEX_FILE, LABELS_FILE, LatentCache
from unmask.data.cache_records import CacheIndex, CachePlan, Shard, to_json
from unmask.data.foreign_cache import KL16
from unmask.data.webdataset import TarImages
from unmask.recipes import get
from unmask.train.masked_batches import MaskedBatches

ROUNDS = 3
Prepare = Callable[[int, Path], Callable[[], object]]


class Growth(NamedTuple):
    """Something that is measured at several sizes."""

    what: str
    """What costs."""
    of: str
    """What the sizes count."""
    sizes: Sequence[int]
    """Ascending."""
    prepare: Prepare
    """Makes it at a size, in an empty folder; what it returns is timed."""


def cost(growth: Growth, size: int) -> float:
    """CPU milliseconds of the call, its threads among them, the least of several."""
    with tempfile.TemporaryDirectory() as folder:
        call, found = growth.prepare(size, Path(folder)), []
        for _ in range(ROUNDS):
            before = time.process_time()
            call()
            found.append(1000 * (time.process_time() - before))
    return min(found)


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of the straight line through the logarithms, by least squares."""
    slope, _ = statistics.linear_regression(
        [*map(math.log, sizes)], [math.log(max(value, 1e-3)) for value in costs]
    )
    return slope


def sparse_cache(shards: int, folder: Path) -> Callable[[], object]:
    """A cache of KL-16's moments, 1,024 images a shard, whose files take no room on the disk."""
    rows, names = 1024, tuple(f"n{label:08d}" for label in range(1000))
    plan = CachePlan(
        encoding=replace(KL16, tokenizer="kl16"),
        dtype="float32",
        source="images",
        source_hash="",
        images=shards * rows,
        split_rule="",
        class_names=names,
        image_size=256,
        grid=(16, 16),
        views=2,
        shard_size=rows,
    )
    header = io.BytesIO()
    shape = (rows, plan.views, *plan.item)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    size = header.tell() + rows * plan.item_bytes
    records = []
    for number in range(shards):
        file = folder / f"moments-{number:05d}.npy"
        file.write_bytes(header.getvalue())
        os.truncate(file, size)
        one = Shard(file=file.name, rows=rows, size=size, digest="", labels=(), skipped=())
        records.append(replace(one, plan=plan.digest, tokenizer="kl16"))
    np.save(folder / LABELS_FILE, np.zeros(shards * rows, np.int64))
    index = CacheIndex(plan=plan, shards=tuple(records), labels_digest="0")
    (folder / INDEX_FILE).write_bytes(to_json(index))
    return lambda: LatentCache.open(folder, check="never")


class InMemory:
    """What a latent cache of 20,000 images gives, without reading."""

    views, length = 2, 256

    def __init__(self, channels: int) -> None:
        self.channels, self.labels = channels, torch.arange(20000) % 1000

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """Zeros, or the noise that latents are drawn with."""
        return torch.zeros(len(rows), self.length, dtype=torch.int64) if noise is None else noise


def batch_of(recipe: str) -> Prepare:
    """A process's share of a batch of 2,048 images: the last process of so many."""

    def prepare(world: int, folder: Path) -> Callable[[], object]:
        found = get(recipe)
        training = replace(found.training, batch_size=2048)
        cache = InMemory(getattr(found.network, "channels", 0))
        batches = MaskedBatches(
            cache, found.masking, training=training, classes=1000, rank=world - 1, world=world
        )
        steps = itertools.count()
        return lambda: batches[next(steps)]

    return prepare


@contextmanager
def written(file: Path) -> Iterator[tarfile.TarFile]:
    """A new tar."""
    with tarfile.open(file, "w") as tar:
        yield tar


def tars(images: int, folder: Path) -> list[Path]:
    """Ten tars of small images and their labels."""
    files = [folder / f"{number:03d}.tar" for number in range(10)]
    for file in files:
        with written(file) as tar:
            for row in range(images // len(files)):
                for ending, content in (("png", b"x" * 1000), ("cls", b"7")):
                    member = tarfile.TarInfo(f"{file.stem}_{row:07d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return files


def new_tars(images: int, folder: Path) -> Callable[[], object]:
    """Tars that change before each opening."""
    files, times = tars(images, folder), itertools.count(1)

    def opened() -> None:
        now = next(times)
        for file in files:
            os.utime(file, (now, now))
        TarImages(folder, "all")

    return opened


def known_tars(images: int, folder: Path) -> Callable[[], object]:
    """Tars that an earlier process has opened."""
    tars(images, folder)
    TarImages(folder, "all")
    numbers = itertools.count()

    def opened() -> None:
        name = folder / f"as-if-new-{next(numbers)}"  # of which this process remembers nothing
        name.symlink_to(folder)
        TarImages(name, "all")

    return opened


WORLDS = (1, 8, 64, 512)
SYSTEMS = ("mar-large", "emigm-large-256", "maskgit-pytorch-imagenet256")
MEASUREMENTS = [
    Growth("cache, opened", "shards", (1250, 2500, 5000), sparse_cache),
    *(Growth(f"batch, {name}", "processes", WORLDS, batch_of(name)) for name in SYSTEMS),
    Growth("tars, opened first", "images", (10_000, 20_000, 40_000), new_tars),
    Growth("tars, opened again", "images", (10_000, 20_000, 40_000), known_tars),
    Growth("checkpoint, saved", "M parameters", (25, 50, 100), checkpoint.saving),
    Growth("checkpoint, gone on from", "M parameters", (25, 50, 100), checkpoint.going_on),
    Growth("precision and recall", "images", (4000, 8000, 16_000), precision_recall.prepare),
]
"""Every line of the report; one more needs no other change."""


def main() -> None:
    """Measure what is asked for and print the table."""
    words = parser(__doc__)
    words.add_argument("--only", default="", metavar="WORD", help="lines with this in their name")
    args = parsed(words)
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for growth in MEASUREMENTS:
        if args.only in growth.what:
            costs = [cost(growth, size) for size in growth.sizes]
            rows.append(
                [
                    growth.what,
                    f"{growth.of}: {', '.join(f'{size:,}' for size in growth.sizes)}",
                    ", ".join(f"{value:.3g}" for value in costs),
                    f"{exponent(growth.sizes, costs):.2f}",
                ]
            )
    note = (
        f"CPU time of one process with one thread, the least of {ROUNDS} calls, files in the page "
        "cache. Batches are of 2,048 images in all; the last process's share is made, and nothing "
        "is read. Caches have 1,024 images a shard, their content is not compared with hashes."
    )
    publish(args, rows, header=["what", "size", "CPU ms", "exponent"], note=note)


if __name__ == "__main__":
    main()
