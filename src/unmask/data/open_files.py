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

K = TypeVar("K")
V = TypeVar("V")
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


class Kept(Generic[K, V]):
    """What was used last, by key, for any thread; another process begins with nothing."""

    def __init__(self) -> None:
        self.kept: OrderedDict[K, V] = OrderedDict()
        self.lock = threading.RLock()  # entered anew when a collection inside frees a reader

    def get(self, key: K, make: Callable[[], V], most: int) -> V:
        """What is kept under a key, made if nothing is; the ``most`` newest stay."""
        with self.lock:
            if key not in self.kept:
                self.kept[key] = make()
            found = self.kept[key]
            self.kept.move_to_end(key)
            self.shrink(most)
        return found

    def shrink(self, most: int) -> None:
        """Let go of all but the newest."""
        with self.lock:
            while len(self.kept) > most:
                self.kept.popitem(last=False)

    def forget(self, keys: Callable[[K], bool]) -> None:
        """Let go of what has such keys."""
        with self.lock:
            for key in filter(keys, list(self.kept)):
                self.kept.pop(key, None)

    def __reduce__(self) -> tuple[type[Kept[K, V]], tuple[()]]:
        """Another process makes its own."""
        return Kept, ()


_pool = Kept[tuple[int, Path], object]()
_owners = itertools.count()


def _start_anew() -> None:
    """In a forked child: no lock that another thread held, no file that the parent reads."""
    global _pool
    _pool = Kept()


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
        return cast(T, _pool.get((self._owner, file), lambda: self._open(file), most_open()))

    def _open(self, file: Path) -> T:
        try:
            return self._opened(file)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        _pool.shrink(0)  # each closes when nobody reads from it any more
        return self._opened(file)

    def __reduce__(self) -> tuple[type[OpenFiles[T]], tuple[Callable[[Path], T]]]:
        """Another process opens the files itself."""
        return OpenFiles, (self._opened,)

    def __del__(self) -> None:
        """A reader that is gone keeps nothing open."""
        with suppress(AttributeError, TypeError):  # at the end of the interpreter
            _pool.forget(lambda key: key[0] == self._owner)


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
