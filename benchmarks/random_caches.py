"""Images, tokenizers and readers for benchmarks of the latent cache: random, and free to make."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

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
