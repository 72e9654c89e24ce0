"""Every random number of sampling and training, as a pure function of a key.

A number is addressed, not consumed: ``(seed, purpose, step)`` names a short stream of its own. So
an image depends on its own seed alone (not on its batch, its rank or what was drawn before), a
training batch on ``(seed, step)`` alone, and two parts that need the same numbers simply ask for
them. Streams are drawn on the CPU and moved, so that every kind of device sees the same numbers;
where memory can be pinned they are drawn into pinned memory, and no copy waits for the device.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import SupportsIndex

import torch
from torch import Tensor

from unmask.errors import InputError

BLOCK = 16  # torch draws normal numbers in blocks: whole ones do not depend on how many follow
TINY = 1e-20  # keeps both logarithms of a Gumbel number finite


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from a key; equal keys give equal seeds on every machine."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator at the start of the stream that the key names."""
    return torch.Generator().manual_seed(keyed_seed(*key))


@functools.cache
def pins(device_type: str) -> bool:
    """Whether memory of the host can be pinned for devices of a type, such as "cuda".

    Only from there may a copy go on while the host does: from other memory some devices read after
    it was freed (Apple's, pytorch issue 189690), and some wait for all their earlier work.
    """
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if here is None or here.type != device_type:
        return False
    try:
        made = torch.empty(1, device="cpu", pin_memory=True)
    except RuntimeError:
        return False
    return made.device.type == "cpu" and made.is_pinned()  # older torch for Apple's says "mps"


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; nothing waits for the device where memory can be pinned."""
    if not pins(device.type):
        return values.to(device)
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)


def gumbel_from_uniform(u: Tensor) -> Tensor:
    """Standard Gumbel numbers from uniform ones, any shape; both logarithms clamped at 1e-20."""
    return -torch.log(torch.clamp(-torch.log(torch.clamp(u, min=TINY)), min=TINY))


def invert_cdf(probs: Tensor, u: Tensor) -> Tensor:
    """One categorical draw a row from one uniform number a row.

    Args:
        probs: ``(..., V)`` non-negative weights, summing to about 1.
        u: ``(...)`` in [0, 1).

    Returns:
        ``(...)`` int64 in [0, V): the first index whose cumulative weight exceeds ``u`` times the
        total, so that a float32 sum ending below 1 cannot fall off the end and a code of weight 0
        is never drawn. Weights that are not numbers give V - 1.
    """
    cdf = probs.cumsum(-1)  # (..., V)
    total = cdf[..., -1]
    target = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    found = torch.searchsorted(cdf, target.unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=probs.shape[-1] - 1)  # NaN sorts behind everything


Seeds = SupportsIndex | Iterable[SupportsIndex]
"""One seed an image, or the first of consecutive ones; of any integer type."""


def as_integer(value: SupportsIndex, what: str) -> int:
    """A Python integer from any integer type: int, NumPy's, a tensor of one element.

    Args:
        value: the number.
        what: what it is, for the error.

    Raises:
        InputError: for anything else; a float would name another stream of random numbers than the
            integer that it looks like.
    """
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):
        raise InputError(
            f"the {what} {value!r} is of type {type(value).__name__}; give an integer"
        ) from None


def as_seeds(seeds: Seeds, count: int = 1) -> Sequence[int]:
    """Seeds as Python integers.

    Args:
        seeds: one an image, of any integer type, in a list, array or tensor; or one integer, the
            first of ``count`` consecutive ones.
        count: images, where one integer is given.

    Raises:
        InputError: for seeds that are no integers.
    """
    if isinstance(seeds, range):
        return seeds
    if isinstance(seeds, SupportsIndex) and not getattr(seeds, "ndim", 0):
        first = as_integer(seeds, "seed")
        return range(first, first + count)
    if isinstance(seeds, Iterable):
        return [as_integer(seed, "seed") for seed in seeds]
    raise InputError(f"seeds={seeds!r} of type {type(seeds).__name__}; give integers")


class Draws:
    """The random numbers of one batch of images, one stream an image.

    Args:
        seeds: one seed an image.
        run_seed: seed of what all rows share (only counts that are themselves random use it).
        device: where the numbers are wanted.
    """

    def __init__(
        self, seeds: Sequence[int], *, run_seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.seeds = [as_integer(seed, "seed") for seed in seeds]
        self.run_seed = run_seed
        self.device = torch.device(device)

    def uniform(self, purpose: str, step: int, *shape: int) -> Tensor:
        """``(B, *shape)`` float32 in [0, 1)."""
        return self._filled(Tensor.uniform_, purpose, step, shape)

    def normal(self, purpose: str, step: int, *shape: int) -> Tensor:
        """``(B, *shape)`` float32, standard normal."""
        return self._filled(Tensor.normal_, purpose, step, shape)

    def _filled(
        self, fill: Callable[..., Tensor], purpose: str, step: int, shape: tuple[int, ...]
    ) -> Tensor:
        """Every row filled from its own stream, where a copy to the device can start from."""
        pinned = pins(self.device.type)
        rows = torch.empty(len(self.seeds), *shape, device="cpu", pin_memory=pinned)
        stream = torch.Generator()  # a third of a short stream's time is to make one
        for row, seed in zip(rows, self.seeds, strict=True):
            fill(row, generator=stream.manual_seed(keyed_seed(seed, purpose, step)))
        return sent(rows, self.device)

    def normal_at(self, purpose: str, step: int, where: Tensor, *shape: int) -> Tensor:
        """Standard normal numbers for some positions of a row.

        Args:
            purpose: what the numbers are for.
            step: the decoding step.
            where: ``(B, N)`` int64. The n-th position read gets the n-th share of the stream,
                whatever N is: longer rows beside it change nothing.
            shape: what one position gets.

        Returns:
            ``(B, N, *shape)`` float32.
        """
        share = math.prod(shape)
        padded = -(-share // BLOCK) * BLOCK
        numbers = self.normal(purpose, step, where.shape[1], padded)
        return numbers[..., :share].unflatten(-1, shape)

    def shared_uniform(self, purpose: str, step: int, *shape: int) -> Tensor:
        """``shape`` float32 in [0, 1) on the CPU, the same for every row: from the run's seed."""
        return torch.rand(shape, generator=keyed_generator(self.run_seed, "run", purpose, step))

    def gumbel(self, purpose: str, step: int, *shape: int) -> Tensor:
        """``(B, *shape)`` float32, standard Gumbel."""
        return gumbel_from_uniform(self.uniform(purpose, step, *shape))

    def categorical(self, probs: Tensor, step: int, where: Tensor, length: int) -> Tensor:
        """One code at each position read, by inverse CDF: one uniform number a token.

        Args:
            probs: ``(B, N, V)``.
            step: the decoding step.
            where: ``(B, N)`` int64, the positions read.
            length: L, tokens of a full canvas; a position's number does not depend on ``where``.

        Returns:
            ``(B, N)`` int64.
        """
        u = self.uniform("token", step, length).gather(1, where)  # (B, N)
        return invert_cdf(probs, u)
