"""Arrays in files, mapped so that the disk reads what is asked for, and not what lies around it.

A map reads ahead, by 128 KiB or by megabytes as the system is set, which at random places fetches
many times what is needed and pushes out of memory what will be needed again.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows, whose maps take no advice either
    getrusage = None  # type: ignore[assignment]


class MappedArray:
    """The array in a .npy file, for readings at random places.

    Args:
        file: as ``np.save`` writes it.

    Raises:
        OSError: it cannot be opened; anything of :data:`unmask.files.damage.DAMAGE`: it is damaged.
    """

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._advised = hasattr(mmap, "MADV_RANDOM")
        if self._advised:
            self._map.madvise(mmap.MADV_RANDOM)
        npy.read_magic(self._map)
        shape, fortran, dtype = npy.read_array_header_1_0(self._map)
        if fortran:
            raise ValueError("its columns lie where its rows should")
        self._start = self._map.tell()
        # Not np.memmap, whose every access costs microseconds.
        flat = np.frombuffer(self._map, dtype, math.prod(shape), self._start)
        self.array = flat.reshape(shape)

    def fetch(self, pieces: Iterable[int], size: int) -> None:
        """Let the disk begin to read parts of the array, all at once.

        Without it each page of each piece is waited for before the next is asked for.

        Args:
            pieces: their numbers, where the whole array is cut into pieces.
            size: bytes of a piece.
        """
        with suppress(OSError):  # a system may decline
            for piece in pieces if self._advised else ():
                start = self._start + piece * size
                inside = start % mmap.PAGESIZE
                self._map.madvise(mmap.MADV_WILLNEED, start - inside, inside + size)


def disk_reads() -> int:
    """A number that grows when files are read from a disk for this process; 0 if nobody counts."""
    if getrusage is None:
        return 0
    used = getrusage(RUSAGE_SELF)
    return used.ru_inblock + used.ru_majflt
