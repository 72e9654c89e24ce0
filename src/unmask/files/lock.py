"""A folder that one process uses at a time, on one machine or over a network file system.

The lock is a hidden file in the folder. The kernel's lock on it ends with its process, however
that ends, and decides between processes of one machine. Other machines may not see that lock, so
the file also says whose it is, and its time of change is renewed every few seconds: a holder of
another machine counts as dead once it has not been renewed for :data:`STALE` seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from unmask.errors import InputError
from unmask.files.durable import explained

LOCK = ".lock"
BEAT = 10.0  # seconds between two renewals
STALE = 90.0  # seconds; network file systems show times of change up to 60 late
POLL = 0.5  # seconds between two looks at a holder of another machine
RECORD = 512  # bytes of a lock file: always the same, so that the last one to write it is in it

_held: dict[tuple[int, int], int] = {}  # device and file number of what is held -> process


@cache
def _machine() -> str:
    """What tells this machine, in this start of it, from others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf8").strip()
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Holder:
    """Who uses a folder.

    Args:
        host: Name of the machine.
        pid: Number of the process on that machine.
        since: Time at which it took the folder, by its machine's clock.
        machine: Identity of the machine and of its start.
        token: Random digits that tell two holders of one process apart.
    """

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    machine: str = field(default_factory=_machine)
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def __str__(self) -> str:
        """The holder for a person."""
        return f"process {self.pid} on {self.host!r} since {self.since}"


class Lock:
    """A lock that is held, as :func:`locked` gives it."""

    def __init__(self, folder: Path, handle: int, holder: Holder) -> None:
        self.folder, self.handle, self.holder = folder, handle, holder
        self.key = _key(handle)
        self.ended = threading.Event()
        self.lost = ""
        """Why the folder is no longer this process's, "" while it is."""
        _held[self.key] = os.getpid()
        os.pwrite(handle, json.dumps(asdict(holder)).encode().ljust(RECORD), 0)
        os.ftruncate(handle, RECORD)
        os.fsync(handle)
        threading.Thread(target=self._renew, name="unmask-lock", daemon=True).start()

    def check(self) -> None:
        """Make sure that the folder is still this process's.

        Raises:
            InputError: another process took it while this one was not heard of for too long.
        """
        if self.lost:
            raise InputError(
                f"{self.folder} was taken over by {self.lost}, as this process had not been heard "
                f"of for {STALE:.0f} s; this one stops"
            )

    def release(self) -> None:
        """Give the folder up; a forked child, which never had it, does nothing."""
        self.ended.set()
        if _held.get(self.key) == os.getpid():
            if _is_at(self.handle, self.folder / LOCK):
                (self.folder / LOCK).unlink(missing_ok=True)
            _held.pop(self.key)
        os.close(self.handle)

    def _renew(self) -> None:
        while not self.ended.wait(BEAT) and not self.lost:
            try:
                os.utime(self.handle)
                self.lost = self._successor()
            except OSError:
                continue  # the next one may pass again

    def _successor(self) -> str:
        """Who holds the folder now, if that is another.

        The file must not be opened and closed here: that would end this process's kernel lock.
        """
        if (found := _key(self.folder / LOCK)) != self.key:
            return "another process" if any(found) else ""
        holder = _read(self.handle)
        return "" if holder is None or holder == self.holder else str(holder)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[Lock]:
    """Use a folder alone.

    The lock of a process that was killed ends with it; that of one on another machine ends
    :data:`STALE` seconds after its last sign of life, and is waited for that long. Of the
    processes of one launcher only the main one takes it.

    Args:
        folder: made when missing.
        what: what is done there, for the error.

    Yields:
        The lock, to be checked before something is written that must not be written twice.

    Raises:
        InputError: another process uses the folder (it is named), or the disk refuses.
    """
    with explained(folder, "nothing was written"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder, _take(folder, what), Holder())
    try:
        yield lock
    finally:
        lock.release()


def _take(folder: Path, what: str) -> int:
    """Handle of the folder's lock file, empty and locked by this process."""
    path = folder / LOCK
    for _ in range(20):
        if (pid := _held.get(_key(path))) == os.getpid():
            raise _refusal(folder, what, f"process {pid}, which is this one")
        handle, own = _open(path)
        free = _try_lock(handle, fcntl.LOCK_EX if own else fcntl.LOCK_SH)
        holder = _read(handle)
        if not _is_at(handle, path):  # its holder has just ended
            os.close(handle)
            continue
        if own and holder is None and free is not False:
            return handle
        try:
            if holder is None and free is False:  # it begins at this moment
                time.sleep(POLL / 10)
            elif _is_alive(handle, path, holder, free):
                raise _refusal(folder, what, str(holder))
            elif _is_at(handle, path):
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)
    raise _refusal(folder, what, "other processes that begin and end")


def _refusal(folder: Path, what: str, holder: str) -> InputError:
    return InputError(
        f"{folder} is in use for another {what} by {holder}; wait for its end or stop it, "
        "or name another folder"
    )


def _key(file: Path | int) -> tuple[int, int]:
    """Device and number of a file by its name or handle; zeros when it is not there."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def _is_at(handle: int, path: Path) -> bool:
    return _key(handle) == _key(path)


def _open(path: Path) -> tuple[int, bool]:
    """A handle of the lock file, made when missing, and whether it may be written."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666), True
    except PermissionError:  # perhaps of another user
        if not path.exists():
            raise
    return os.open(path, os.O_RDONLY), False


def _try_lock(handle: int, how: int) -> bool | None:
    """Take the kernel's lock; False if another process has it, None where there are none."""
    try:
        fcntl.lockf(handle, how | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read(handle: int) -> Holder | None:
    """What a lock file says; None of one that is empty or torn."""
    try:
        return Holder(**json.loads(os.pread(handle, RECORD, 0)))
    except (ValueError, TypeError):
        return None


def _is_alive(handle: int, path: Path, holder: Holder | None, free: bool | None) -> bool:
    """Whether a holder still runs; waits for a sign of life where only that can tell."""
    here = holder is None or holder.machine == _machine()
    if here and free is not None:
        return not free
    seen = os.fstat(handle).st_mtime_ns
    left = STALE - max(0.0, _now_at(path.parent) - seen / 1e9)
    if left > 0:
        print(
            f"{path.parent} was in use by {holder}; looking for a sign of life, at most "
            f"{left:.0f} s",
            file=sys.stderr,
        )
    end = time.monotonic() + left
    while time.monotonic() < end:
        time.sleep(POLL)
        try:
            with path.open("rb") as again:  # opening it anew makes network file systems look
                if not _is_at(handle, path):
                    return False
                if os.fstat(again.fileno()).st_mtime_ns != seen:
                    return True
        except FileNotFoundError:
            return False
    return False


def _now_at(folder: Path) -> float:
    """The time by the clock of the file system that holds a folder, seconds."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime
