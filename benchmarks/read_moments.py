"""Shuffled reading of moments: the latent cache against one .npz file an image.

    python benchmarks/read_moments.py --images 10000 --report benchmarks/reports

Both hold the same moments (32, 16, 16) of the same images with their mirror images, float32. One
.npz an image with ``moments`` and ``moments_flip``, loaded anew at every access and then stacked,
is how MAR and eMIGM keep their caches. Two comparisons: the moments themselves, and the latents
that are drawn from them, a batch at a time, by the same noise. Rounds alternate between the two in
one process; every round reads other batches, the same ones from both, and the results are compared.
Then the same with nothing in memory, with the bytes that the device had to read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import parsed, parser, publish
from random_caches import (
    HEADER,
    NOTE,
    RandomImages,
    RandomMoments,
    Reader,
    measure,
    measure_cold,
    table,
)
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.foreign_cache import KL16, convert_cache
from unmask.draws import keyed_generator
from unmask.tokenizers.latent_tokenizer import posterior, to_map, to_tokens

SIDE = 16
CHANNELS, MOMENT_CHANNELS, SCALE = KL16.channels, KL16.moment_channels, KL16.scale
Opener = Callable[[Path, Tensor], Reader]


def write_npz(cache: LatentCache, folder: Path) -> None:
    """One file an image, in ten folders of classes, as MAR's cache holds."""
    for row in range(len(cache)):
        twice = torch.tensor([row, row])
        straight, mirrored = cache.stored(twice, torch.tensor([0, 1])).numpy()
        file = folder / f"n{row * 10 // len(cache)}" / f"{row:07d}.JPEG.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, moments=straight, moments_flip=mirrored)


def npz_reader(folder: Path) -> Reader:
    """Read a batch of moments file by file."""
    files = sorted(folder.glob("*/*.npz"))

    def read(rows: Tensor, views: Tensor) -> Tensor:
        moments = []
        for row, view in zip(rows.tolist(), views.tolist(), strict=True):
            with np.load(files[row]) as arrays:
                moments.append(torch.from_numpy(arrays["moments_flip" if view else "moments"]))
        return torch.stack(moments)

    return read


def drawn(read: Reader, noise: Tensor) -> Reader:
    """Read moments and draw latents from them, as MAR's training step does."""

    def read_and_draw(rows: Tensor, views: Tensor) -> Tensor:
        maps = posterior(read(rows, views)).sample(to_map(noise, CHANNELS))
        return to_tokens(maps * SCALE).contiguous()

    return read_and_draw


def of_cache(read: Callable[[LatentCache, Tensor], Reader]) -> Opener:
    """A reader of our cache, opened."""
    return lambda folder, noise: read(LatentCache.open(folder), noise)


READINGS: dict[str, tuple[Opener, Opener]] = {
    "moments": (
        of_cache(lambda cache, noise: cache.stored),
        lambda folder, noise: npz_reader(folder),
    ),
    "latents": (
        of_cache(lambda cache, noise: lambda rows, views: cache.tokens(rows, views, noise)),
        lambda folder, noise: drawn(npz_reader(folder), noise),
    ),
}
"""What is read, from our cache and from one file an image."""


def main() -> None:
    """Build both, read both, print the table."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=10000)
    words.add_argument("--batch-size", type=int, default=256)
    words.add_argument("--batches", type=int, default=8, help="a round")
    words.add_argument("--rounds", type=int, default=7)
    args = parsed(words)
    torch.set_num_threads(1)
    noise = torch.randn(args.batch_size, SIDE**2, CHANNELS, generator=keyed_generator("noise"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_cache(
            RandomMoments(),
            RandomImages(args.images, SIDE),
            out=folder / "cache",
            layout=CacheLayout(image_size=SIDE),
            progress=False,
        )
        write_npz(LatentCache.open(folder / "cache"), folder / "npz")
        rows: list[list[object]] = []
        for what, reading in READINGS.items():
            openers = {
                f"{what}, latent cache": partial(reading[0], folder / "cache", noise),
                f"{what}, .npz an image": partial(reading[1], folder / "npz", noise),
            }
            warm = measure({name: opener() for name, opener in openers.items()}, args)
            cold = measure_cold(openers, folder, args)
            rows += table(warm, cold, 4 * MOMENT_CHANNELS * SIDE**2)
        report = convert_cache(folder / "npz", "mar", out=folder / "again", progress=False)
    rows.append(["conversion of the files", "", report.rows / report.seconds, *[""] * 4])
    note = (
        f"Shuffled batches of {args.batch_size} out of {args.images} images with moments of "
        f"{MOMENT_CHANNELS} x {SIDE} x {SIDE} float32 and two views each, one process, one "
        "thread. Warm: files in the page cache; "
        f"{args.rounds} rounds of {args.batches} batches, "
        "alternating, after one round of warm-up. Both readers return the same tensors, which "
        "is checked. Latents are drawn a batch at a time in both, the noise at hand. "
        f"{NOTE}"
    )
    publish(args, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
