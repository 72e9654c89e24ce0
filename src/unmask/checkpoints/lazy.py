"""Tensors of a file that are read one at a time, when they are asked for."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from unmask.errors import InputError

Reader = Callable[[], Tensor]
Span = tuple[int, int]


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read anew whenever it is asked for: whoever takes one holds it alone.

    Args:
        readers: what reads each.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # without reading it, as Mapping's own would

    def picked(self, names: Mapping[str, str]) -> LazyTensors:
        """Some of them under other names: from the new name to the one here."""
        return LazyTensors({new: self._readers[name] for new, name in names.items()})


class MappedFile:
    """A file whose tensors lie in memory maps, which somebody else has made.

    Args:
        path: the file.
        maps: False for one whose tensors are in memory already; they are then handed out as they
            are.
    """

    def __init__(self, path: Path, *, maps: bool = True) -> None:
        self._origin, self._maps = str(path), maps
        self._spans = _spans_of(path) if maps else []

    def reader(self, view: Tensor, name: str) -> Reader:
        """What copies a tensor out of the map and hands the map's pages back to the system.

        So nothing is in memory twice, and nobody depends on the file any more.

        Args:
            view: the tensor in the map, which nobody writes to.
            name: for errors.
        """

        def read() -> Tensor:
            room = view.untyped_storage().nbytes()
            if view.numel() * view.element_size() > room:
                shape = tuple(view.shape)
                raise InputError(
                    f"{self._origin} is damaged: {name!r} of shape {shape} has {room} bytes"
                )
            if not self._maps:
                return view.detach()
            taken = view.detach().clone()
            self._release(view)
            return taken

        return read

    def _release(self, view: Tensor) -> None:
        start = view.untyped_storage().data_ptr()
        end = start + view.untyped_storage().nbytes()
        if any(low <= start and end <= high for low, high in self._spans):
            first, last = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
            size = max(0, last - first) * mmap.PAGESIZE
            ctypes.CDLL(None).madvise(
                *(ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t(size)),
                ctypes.c_int(mmap.MADV_DONTNEED),
            )


def _spans_of(path: Path) -> list[Span]:
    """Addresses of this process's maps of a file, as Linux tells them; elsewhere none."""
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    wanted = os.fsencode(os.path.realpath(path))
    spans = []
    for line in lines:
        span, *_, name = line.split(maxsplit=5)
        if name == wanted:
            low, high = span.split(b"-")
            spans.append((int(low, 16), int(high, 16)))
    return spans
