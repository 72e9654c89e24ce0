"""Decoding pictures by threads and by processes: images a second, from JPEG to the cropped tensor.

    python benchmarks/decode_threads.py --report benchmarks/reports

A photograph-like JPEG of 500 x 375 is decoded and cut to 256 x 256, as a cache build or a training
from images reads it. Pillow works outside Python's lock for most of that, so threads scale; the
share inside the lock, by Amdahl's law from one and several threads, bounds how far.
"""

from __future__ import annotations

import io
import statistics
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from common import parsed, parser, publish
from PIL import Image, ImageFilter

from unmask.data.decoding import decode_image
from unmask.data.transform import Transform

CUT = Transform(size=256, crop="center", channels=3)


def picture(size: int) -> bytes:
    """Blurred noise as a JPEG of about so many bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.2))
    for quality in range(95, 5, -2):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        if stream.tell() <= size:
            break
    return stream.getvalue()


def decoded(content: bytes, number: int) -> int:
    """Decode one and cut it."""
    return CUT(decode_image(content, str(number))).numel()


def rate(pool: Executor, content: bytes, images: int) -> float:
    """Images a second."""
    began = time.perf_counter()
    list(pool.map(partial(decoded, content), range(images), chunksize=8))
    return images / (time.perf_counter() - began)


def main() -> None:
    """Time every pool in turn and print the table."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=160, help="a round")
    words.add_argument("--rounds", type=int, default=9)
    words.add_argument("--bytes", type=int, default=70_000, help="of the picture, about")
    args = parsed(words)
    torch.set_num_threads(1)
    content = picture(args.bytes)
    pools: dict[str, Executor] = {}
    for count in (1, 2, 4):
        pools[f"{count} processes"] = ProcessPoolExecutor(count)
        pools[f"{count} threads"] = ThreadPoolExecutor(count)
    rates: dict[str, list[float]] = {name: [] for name in pools}
    for turn in range(args.rounds + 1):
        for name, pool in pools.items():
            found = rate(pool, content, args.images)
            if turn:  # the first starts the processes
                rates[name].append(found)
    alone = statistics.median(rates["1 threads"])
    rows = [
        [name, statistics.median(found), max(found), f"{statistics.median(found) / alone:.2f}x"]
        for name, found in rates.items()
    ]
    for pool in pools.values():
        pool.shutdown()
    note = (
        f"One JPEG of {len(content):,} bytes and 500 x 375 pixels, decoded and cut to 256 x 256; "
        f"{args.rounds} rounds of {args.images} images, the pools in turn, after one round that is "
        "not counted. Ratios are to one thread; more workers than usable cores can gain nothing."
    )
    publish(args, rows, header=["workers", "images/s, median", "most", "ratio"], note=note)


if __name__ == "__main__":
    main()
