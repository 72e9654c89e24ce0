"""Shuffled reading of token ids: the latent cache against one .npz file an image.

    python benchmarks/read_codes.py --images 20000 --report benchmarks/reports

Both hold the same ids of the same images with their mirror images. One .npz an image (int64 arrays
``idx`` and ``idx_flip``, loaded anew at every access, a row at a time, then stacked) is how
maskgit-pytorch keeps its cache. Rounds alternate between the two in one process; every round reads
other batches, the same ones from both, and the results are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import hardware_line, markdown_table, versions_line, write_report
from torch import Tensor

from unmask.data.batches import epoch_rows
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.decoding import decode_image
from unmask.draws import keyed_generator

CODES = 1024
Reader = Callable[[Tensor, Tensor], Tensor]


class RandomImages:
    """Unlabelled one-colour images whose row number is their colour: nothing to decode."""

    name = "rows"
    class_names = ()
    split_rule = "none"
    notes = ()

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def key(self, row: int) -> str:
        """The row as text."""
        return str(row)

    def label(self, row: int) -> None:
        """No labels."""

    def content(self, row: int) -> bytes:
        """The row, in base 256, as the colour of a PPM file."""
        colour = bytes((row >> 16 & 255, row >> 8 & 255, row & 255))
        return b"P6 %d %d 255\n" % (self.size, self.size) + colour * self.size**2

    def stamp(self, row: int) -> tuple[int, ...]:
        """No file, no time."""
        return (row,)

    def image(self, row: int) -> Image.Image:
        """The picture."""
        return decode_image(self.content(row), str(row))


class RandomTokenizer:
    """Random ids that depend on the colour of an image only."""

    identity = "random ids"
    codes = CODES
    stride = 1
    image_channels = 3
    native_range = (0.0, 1.0)

    def grid(self, image_size: int) -> tuple[int, int]:
        """One token a pixel."""
        return image_size, image_size

    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, S * S)``."""
        length = images.shape[-1] ** 2
        keys = (images[:, :, 0, 0] * 255).round().long().tolist()
        generators = (keyed_generator("ids", *key) for key in keys)
        return torch.stack([torch.randint(CODES, (length,), generator=g) for g in generators])

    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Not used."""
        raise NotImplementedError


def write_npz(cache: LatentCache, folder: Path) -> None:
    """One file an image, as maskgit-pytorch's cache holds."""
    folder.mkdir()
    for start in range(0, len(cache), 1000):
        rows = torch.arange(start, min(start + 1000, len(cache)))
        straight = cache.tokens(rows, torch.zeros_like(rows)).numpy()
        mirrored = cache.tokens(rows, torch.ones_like(rows)).numpy()
        for row, idx, idx_flip in zip(rows.tolist(), straight, mirrored, strict=True):
            np.savez(folder / f"{row:07d}.npz", idx=idx, idx_flip=idx_flip)


def npz_reader(folder: Path) -> Reader:
    """Read a batch file by file."""
    files = sorted(folder.glob("*.npz"))

    def read(rows: Tensor, views: Tensor) -> Tensor:
        ids = []
        for row, view in zip(rows.tolist(), views.tolist(), strict=True):
            with np.load(files[row]) as arrays:
                ids.append(torch.from_numpy(arrays["idx_flip" if view else "idx"]))
        return torch.stack(ids)

    return read


def timed(read: Reader, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
    """Seconds of reading all batches, and what was read."""
    start = time.perf_counter()
    ids = [read(rows, views) for rows, views in batches]
    return time.perf_counter() - start, ids


def measure(readers: dict[str, Reader], args: argparse.Namespace) -> dict[str, list[float]]:
    """Samples per second of each reader in each round; round 0 warms up and is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(args.rounds + 1):
        steps = range(turn * args.batches, (turn + 1) * args.batches)
        drawn = [epoch_rows(args.images, args.batch_size, 0, step) for step in steps]
        flips = keyed_generator("views", turn)
        batches = [(rows, torch.randint(2, rows.shape, generator=flips)) for rows in drawn]
        seen = {}
        for name, read in readers.items():
            seconds, seen[name] = timed(read, batches)
            if turn:
                rates[name].append(args.batches * args.batch_size / seconds)
        first, *others = seen.values()
        for other in others:
            assert all(map(torch.equal, first, other)), "the readers disagree"
    return rates


def main() -> None:
    """Build both, read both, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--tokens", type=int, default=256, help="a square number")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=16, help="a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shard-size", type=int, help="default: 64 MiB")
    parser.add_argument("--report", metavar="DIR", help="write a report file there")
    args = parser.parse_args()
    side = round(args.tokens**0.5)
    assert side * side == args.tokens, f"--tokens {args.tokens} is not a square number"
    layout = CacheLayout(image_size=side, shard_size=args.shard_size, batch_size=1000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cache"
        source = RandomImages(args.images, side)
        build_cache(RandomTokenizer(), source, out=out, layout=layout, progress=False)
        cache = LatentCache.open(out)
        write_npz(cache, Path(folder) / "npz")
        readers = {"latent cache": cache.tokens, ".npz an image": npz_reader(out.parent / "npz")}
        rates = measure(readers, args)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    slowest = min(medians.values())
    header = ["reader", "samples/s, median", "least", "most", "ratio"]
    rows = [
        [name, medians[name], min(values), max(values), f"{medians[name] / slowest:.1f}x"]
        for name, values in rates.items()
    ]
    print(hardware_line(), versions_line(), markdown_table(header, rows), sep="\n")
    if args.report:
        note = (
            f"Shuffled batches of {args.batch_size} out of {args.images} images with "
            f"{args.tokens} ids and two views each, one process, one thread, files in the page "
            f"cache; {args.rounds} rounds of {args.batches} batches, alternating, after one round "
            "of warm-up. Both readers return the same int64 tensors, which is checked."
        )
        print(write_report(args.report, "read_codes", rows=rows, header=header, note=note))


if __name__ == "__main__":
    main()
