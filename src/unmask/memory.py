"""What fits into the memory of this machine, asked before any of it is claimed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from unmask.errors import InputError

GIB = 1 << 30
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
