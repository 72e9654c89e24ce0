"""Files that stay open between two readings, never too many: one pool a process for all shards.

A data set may have more shards than a process may have open files (``ulimit -n``). Whoever reads
them asks for each file when it is needed; the pool opens it, and closes those that were used least
recently. Threads may share a pool; a forked process begins with an empty one.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar, cast

T = TypeVar("T")

MOST = 4096  # kept open where the system allows it
SHARE = 4  # one part in so many of what the system allows; the rest is for everything else


def most_open() -> int:
    """How many files the pool keeps open: a quarter of the process's limit, at most 4096."""
    if sys.platform == "win32":
        return 128  # its C library allows 512
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // SHARE))


class _Pool:
    """What is open now, least recently used first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[int, Path], object] = OrderedDict()
        self.lock = threading.RLock()  # entered anew when a collection inside frees a reader

    def get(self, key: tuple[int, Path], opened: Callable[[Path], object]) -> object:
        """What is open under a key, opened if it is not."""
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        found = self._open(key[1], opened)
        with self.lock:
            self.kept[key] = found
            self.shrink(most_open())
        return found

    def shrink(self, most: int) -> None:
        """Let go of all but the newest; each closes when nobody reads from it any more."""
        with self.lock:
            while len(self.kept) > most:
                self.kept.popitem(last=False)

    def _open(self, file: Path, opened: Callable[[Path], object]) -> object:
        try:
            return opened(file)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self.shrink(0)
        return opened(file)

    def forget(self, owner: int) -> None:
        """Let go of what one reader has open."""
        with self.lock:
            for key in [key for key in self.kept if key[0] == owner]:
                self.kept.pop(key, None)


_pool = _Pool()
_owners = itertools.count()


def _start_anew() -> None:
    """In a forked child: no lock that another thread held, no file that the parent reads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class OpenFiles(Generic[T]):
    """What one reader has open of its files.

    Args:
        opened: opens a file: a handle, a map or a table that closes when nothing refers to it. It
            is a function of a module, so that another process can open files of its own.
    """

    def __init__(self, opened: Callable[[Path], T]) -> None:
        self._opened, self._owner = opened, next(_owners)

    def __call__(self, file: Path) -> T:
        """The open file, which may be closed once the caller has let go of it.

        Raises:
            OSError: as ``opened`` does.
        """
        return cast(T, _pool.get((self._owner, file), self._opened))

    def __reduce__(self) -> tuple[type[OpenFiles[T]], tuple[Callable[[Path], T]]]:
        """Another process opens the files itself."""
        return OpenFiles, (self._opened,)

    def __del__(self) -> None:
        """A reader that is gone keeps nothing open."""
        with suppress(AttributeError, TypeError):  # at the end of the interpreter
            _pool.forget(self._owner)


class Handle:
    """A file that is read at any place, by any thread."""

    def __init__(self, file: Path) -> None:
        self._number = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read(self, start: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``start``; fewer where the file ends.

        Raises:
            OSError: the disk refuses.
        """
        parts = []
        while size > 0 and (part := os.pread(self._number, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)

    def __del__(self) -> None:
        """Close it."""
        with suppress(AttributeError, OSError):  # it was never opened, or the interpreter ends
            os.close(self._number)
