"""Shuffled reading of token ids: the latent cache against one .npz file an image.

    python benchmarks/read_codes.py --images 20000 --report benchmarks/reports

Both hold the same ids of the same images with their mirror images. One .npz an image (int64 arrays
``idx`` and ``idx_flip``, loaded anew at every access, a row at a time, then stacked) is how
maskgit-pytorch keeps its cache. Rounds alternate between the two in one process; every round reads
other batches, the same ones from both, and the results are compared.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import parsed, parser, publish
from random_caches import RandomImages, RandomTokenizer, Reader, measure
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
    note = (
        f"Shuffled batches of {args.batch_size} out of {args.images} images with "
        f"{args.tokens} ids and two views each, one process, one thread, files in the page "
        f"cache; {args.rounds} rounds of {args.batches} batches, alternating, after one round "
        "of warm-up. Both readers return the same int64 tensors, which is checked."
    )
    publish(args, rows, header=header, note=note)


if __name__ == "__main__":
    main()
