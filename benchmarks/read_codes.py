"""Shuffled reading of token ids: the latent cache against one .npz file an image.

    python benchmarks/read_codes.py --images 20000 --report benchmarks/reports

Both hold the same ids of the same images with their mirror images. One .npz an image (int64 arrays
``idx`` and ``idx_flip``, loaded anew at every access, a row at a time, then stacked) is how
maskgit-pytorch keeps its cache. Rounds alternate between the two in one process; every round reads
other batches, the same ones from both, and the results are compared. Then the same with nothing in
memory, with the bytes that the device had to read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from common import parsed, parser, publish
from random_caches import (
    HEADER,
    NOTE,
    RandomImages,
    RandomTokenizer,
    Reader,
    measure,
    measure_cold,
    table,
)
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache


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


def main() -> None:
    """Build both, read both, print the table."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=20000)
    words.add_argument("--tokens", type=int, default=256, help="a square number")
    words.add_argument("--batch-size", type=int, default=256)
    words.add_argument("--batches", type=int, default=16, help="a round")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--shard-size", type=int, help="default: 64 MiB")
    args = parsed(words)
    side = round(args.tokens**0.5)
    assert side * side == args.tokens, f"--tokens {args.tokens} is not a square number"
    layout = CacheLayout(image_size=side, shard_size=args.shard_size, batch_size=1000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cache"
        source = RandomImages(args.images, side)
        build_cache(RandomTokenizer(), source, out=out, layout=layout, progress=False)
        write_npz(LatentCache.open(out), out.parent / "npz")
        readers = {
            "latent cache": lambda: LatentCache.open(out).tokens,
            ".npz an image": lambda: npz_reader(out.parent / "npz"),
        }
        warm = measure({name: opener() for name, opener in readers.items()}, args)
        cold = measure_cold(readers, out.parent, args)
    note = (
        f"Shuffled batches of {args.batch_size} out of {args.images} images with "
        f"{args.tokens} ids and two views each, one process, one thread. Warm: files in the page "
        f"cache; {args.rounds} rounds of {args.batches} batches, alternating, after one round "
        "of warm-up. Both readers return the same int64 tensors, which is checked. "
        f"{NOTE} A device reads whole pages of 4,096 bytes, and a sample has {2 * args.tokens:,}."
    )
    publish(args, table(warm, cold, 2 * args.tokens), header=HEADER, note=note)


if __name__ == "__main__":
    main()
