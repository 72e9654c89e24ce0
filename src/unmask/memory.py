"""What fits into the memory of this machine, asked before any of it is claimed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unmask.errors import InputError, is_out_of_memory

T = TypeVar("T")

GIB = 1 << 30
USUAL, MOST = 64, 256  # rows at once where a device's memory cannot be asked, and ever
MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # what Linux grants the container


class _NoInit(TorchFunctionMode):
    """Leaves out ``torch.nn.init``, which on the meta device imports PyTorch's compiler."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def skeleton() -> Iterator[None]:
    """What is built inside has names and shapes but no memory, on the meta device."""
    with torch.device("meta"), _NoInit():
        yield


def most_memory() -> int:
    """Bytes that this process could ever hold: the machine's, its container's or its own limit.

    Where none of them can be told, a number that refuses nothing.
    """
    limits = [1 << 62]
    with suppress(OSError, ValueError, AttributeError):  # a machine without sysconf
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limits.append(int(CONTAINER.read_text()))
    with suppress(ImportError, OSError, ValueError):  # a machine without such limits
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits += [most] if most != resource.RLIM_INFINITY else []
    return min(limits)


def free_memory() -> int:
    """Bytes that the machine, or its container, could still give; 0 where that cannot be told."""
    try:
        told = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = 1024 * int(told["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return 0
    with suppress(OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        used = dict(map(str.split, CONTAINER.with_name("memory.stat").read_text().splitlines()))
        free = min(free, int(CONTAINER.read_text()) - int(used["anon"]))
    return max(0, free)


def peak_memory() -> int:
    """Largest resident memory that this process ever had, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_memory(wanted: int, what: str, way_out: str) -> None:
    """Refuse what needs more memory than the machine has.

    Args:
        wanted: bytes, of the largest part alone.
        what: the subject of the sentence.
        way_out: its end.

    Raises:
        InputError: with both numbers.
    """
    most = most_memory()
    if wanted > most:
        raise InputError(
            f"{what} needs at least {wanted / GIB:,.1f} GiB of memory, and this machine has "
            f"{most / GIB:,.1f} GiB; {way_out}"
        )


def check_fits(build: Callable[[], nn.Module], sizes: str) -> None:
    """Refuse a network whose weights alone exceed the machine's memory, without building it.

    Args:
        build: makes the network; it is called where nothing is allocated.
        sizes: where its sizes are options, as "network".

    Raises:
        InputError: naming its parameters and the memory.
    """
    with skeleton():
        weights = list(build().parameters())
    wanted = sum(weight.numel() * weight.element_size() for weight in weights)
    count = sum(weight.numel() for weight in weights)
    check_memory(wanted, f"a network of {count:,} parameters", f"choose smaller {sizes} sizes")


def fitting(
    make: Callable[[slice], T],
    count: int,
    batch_size: int | Literal["auto"],
    *,
    each: int,
    device: torch.device,
) -> Iterator[T]:
    """What is made of consecutive rows, as many at once as memory holds.

    Args:
        make: the work on some rows; with "auto" it is tried again on half of them where memory
            was used up, and no later batch is larger.
        count: rows in all.
        batch_size: rows at once; "auto" begins with half of the device's free memory, at most 256,
            or with 64 where that cannot be asked, as on CPUs.
        each: bytes that a row takes, estimated.
        device: where the work is done.

    Yields:
        What each batch gives, in order.

    Raises:
        InputError: memory is used up, naming the batch size.
    """
    size = _first_size(each, device) if batch_size == "auto" else batch_size
    start = 0
    while start < count:
        try:
            made = make(slice(start, min(start + size, count)))
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error)):
                raise
            if batch_size != "auto" or size == 1:
                raise InputError(
                    f"batch_size={size} does not fit into the memory of {device}; give a smaller "
                    "batch size, or auto, which finds one"
                    if size > 1
                    else f"the memory of {device} is too small for one image; choose another device"
                ) from None
            size = -(-min(size, count - start) // 2)
            continue
        start += size
        yield made


def _first_size(each: int, device: torch.device) -> int:
    """Rows that half of a device's free memory holds."""
    ask = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return USUAL if ask is None else max(1, min(MOST, ask(device)[0] // 2 // each))
