"""Images, tokenizers and readers for benchmarks of the latent cache: random, and free to make."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from unmask.data.batches import epoch_rows
from unmask.data.decoding import decode_image
from unmask.data.foreign_cache import KL16
from unmask.draws import keyed_generator
from unmask.networks.sizes import Space
from unmask.tokenizers.tokenizer import Tokenizer

CODES = 1024
CHANNELS, MOMENT_CHANNELS, SCALE = KL16.channels, KL16.moment_channels, KL16.scale
Reader = Callable[[Tensor, Tensor], Tensor]
Batches = list[tuple[Tensor, Tensor]]


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


class RandomTokenizer(Tokenizer):
    """Random ids that depend on the colour of an image only."""

    identity = "random ids"
    space: Space = ("codes", CODES)
    stride = 1
    image_channels = 3
    native_range = (0.0, 1.0)

    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, S * S)``."""
        length = images.shape[-1] ** 2
        keys = (images[:, :, 0, 0] * 255).round().long().tolist()
        generators = (keyed_generator("ids", *key) for key in keys)
        return torch.stack([torch.randint(CODES, (length,), generator=g) for g in generators])

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Not used."""
        raise NotImplementedError


class RandomMoments(Tokenizer):
    """Random moments that depend on the colour of an image only; one token a pixel."""

    identity = "random moments"
    space = ("channels", CHANNELS)
    moment_channels = MOMENT_CHANNELS
    scale = SCALE
    stride = 1
    image_channels = 3
    native_range = (0.0, 1.0)

    def encode(self, images: Tensor) -> Tensor:
        """``(B, C, S, S)`` to ``(B, M, S, S)``."""
        keys = (images[:, :, 0, 0] * 255).round().long().tolist()
        shape = (MOMENT_CHANNELS, *images.shape[2:])
        return torch.stack([torch.randn(shape, generator=keyed_generator("m", *k)) for k in keys])

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Not used."""
        raise NotImplementedError


def timed(read: Reader, batches: Batches, clock: Callable[[], float]) -> tuple[float, list[Tensor]]:
    """Seconds of reading all batches, by a clock, and what was read."""
    start = clock()
    ids = [read(rows, views) for rows, views in batches]
    return clock() - start, ids


def batches_of(turn: int, args: argparse.Namespace) -> Batches:
    """Rows and views of the batches of a round, other ones in each."""
    steps = range(turn * args.batches, (turn + 1) * args.batches)
    drawn = [epoch_rows(args.images, args.batch_size, 0, step) for step in steps]
    flips = keyed_generator("views", turn)
    return [(rows, torch.randint(2, rows.shape, generator=flips)) for rows in drawn]


def measure(readers: dict[str, Reader], args: argparse.Namespace) -> dict[str, list[float]]:
    """Samples per CPU second of each reader in each round; round 0 warms up and does not count."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(args.rounds + 1):
        batches, seen = batches_of(turn, args), {}
        for name, read in readers.items():
            seconds, seen[name] = timed(read, batches, time.process_time)
            if turn:
                rates[name].append(args.batches * args.batch_size / seconds)
        first, *others = seen.values()
        for other in others:
            assert all(map(torch.equal, first, other)), "the readers disagree"
    return rates


NOTE = (
    "Warm rates are per CPU second, which other work on the machine hardly changes, and cold ones "
    "per second by the clock.\n\n"
    "Cold: everything is written out first (os.sync), and before each round the system is told to "
    "forget the pages of all files (posix_fadvise DONTNEED); the reader is opened anew. What the "
    "device gave is read_bytes of /proc/self/io, and needed are the samples' own bytes. Names and "
    "places of the files stay in memory, which favours one file an image."
)


def forget(folder: Path) -> None:
    """Have the system drop from its memory what lies in a folder, is written and not mapped."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def device_bytes() -> int:
    """Bytes that devices have read for this process."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes: ")[2].split()[0])


def measure_cold(
    openers: dict[str, Callable[[], Reader]], folder: Path, args: argparse.Namespace
) -> dict[str, tuple[list[float], list[float]]]:
    """Samples a second and bytes of the device a sample, in each round, nothing in memory."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in openers}
    samples = args.batches * args.batch_size
    os.sync()
    for turn in range(args.rounds):
        for name, opener in openers.items():
            read = opener()
            forget(folder)
            before = device_bytes()
            seconds, _ = timed(read, batches_of(turn, args), time.perf_counter)
            found[name][0].append(samples / seconds)
            found[name][1].append((device_bytes() - before) / samples)
            del read  # with its maps, which would keep pages in memory
    return found


def table(
    warm: dict[str, list[float]],
    cold: dict[str, tuple[list[float], list[float]]],
    needed: int,
) -> list[list[object]]:
    """Rows of a report: each reader, warm and cold, beside the slowest of its kind.

    Args:
        warm: see :func:`measure`.
        cold: see :func:`measure_cold`.
        needed: bytes of a sample.
    """
    rows: list[list[object]] = []
    for kind, rates in (("warm", warm), ("cold", {name: pair[0] for name, pair in cold.items()})):
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            share = ""
            if kind == "cold":
                share = f"{statistics.median(cold[name][1]) / needed:.2f}"
            ratio = f"{medians[name] / min(medians.values()):.1f}x"
            rows.append([name, kind, medians[name], min(values), max(values), ratio, share])
    return rows


HEADER = [
    *("reader", "page cache", "samples/s, median", "least", "most", "ratio"),
    "bytes read / needed",
]
