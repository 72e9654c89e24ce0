"""SIGTERM and SIGINT: the work in hand is brought to an end, and a second signal ends at once.

Within :func:`listening` the first signal raises :class:`Stopped` in the main thread, or, within
:func:`postponed`, is only noted, so that a training can finish its step and save. A thread keeps
watch, because the main one may be deep in other code: it ends the process at a second signal, and
:data:`GRACE` seconds after the first unless something is being saved.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE = 30.0
"""Seconds from a signal to the end of the process; a save may take longer."""
ECHO = 1.0
"""Seconds in which a repeated signal counts as the same: launchers pass on what a terminal or a
cluster has sent to every process already."""
SHOW_CURSOR = b"\x1b[?25h"  # which progress bars hide
STATUS = 128  # of a process that a signal ended, less the signal's number


class Stopped(KeyboardInterrupt):
    """The end that SIGTERM or SIGINT asks for.

    Args:
        number: of the signal.
        said: one line about what was reached; None leaves the usual one, "" says nothing.
    """

    def __init__(self, number: int, said: str | None = None) -> None:
        super().__init__(number, said)
        self.number, self.said = number, said

    def __str__(self) -> str:
        """The line."""
        usual = f"interrupted by {name_of(self.number)}; finished files are kept"
        return usual if self.said is None else self.said


def name_of(number: int) -> str:
    """SIGTERM or SIGINT."""
    return signal.Signals(number).name


class _Watch:
    """What has arrived, and the thread that keeps watch; one at a time in a process."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.postponed = 0
        self.saving = False
        self.ears, self.mouth = socket.socketpair()
        for end in (self.ears, self.mouth):
            end.setblocking(False)
        self.mine = [s for s in (signal.SIGTERM, signal.SIGINT) if _is_heeded(s)]
        self.before = {number: signal.signal(number, self._hear) for number in self.mine}
        self.fd_before = signal.set_wakeup_fd(self.mouth.fileno(), warn_on_full_buffer=False)
        self.thread = threading.Thread(target=self._watch, name="unmask-signals", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(self.fd_before)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.mouth.send(b"\0")
        self.thread.join()
        self.ears.close()
        self.mouth.close()

    def forget(self) -> None:
        """In a forked child: its signals are its own affair."""
        signal.set_wakeup_fd(-1)
        for number in self.mine:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)

    def raise_if_any(self) -> None:
        """Raise what has arrived, unless it is postponed."""
        if self.number is not None and not self.postponed:
            raise Stopped(self.number)

    def _hear(self, number: int, frame: object) -> None:
        first, self.number = self.number is None, self.number or number
        if first:
            self.raise_if_any()

    def _watch(self) -> None:
        """Read the numbers of signals as the system delivers them, whatever the main one does."""
        first, number = 0.0, 0
        while True:
            wait = None if not first else max(0.0, first + GRACE - time.monotonic())
            if not select.select([self.ears], [], [], 0.2 if wait == 0 else wait)[0]:
                if not self.saving:
                    _leave(number, f"no end of the work in hand came within {GRACE:.0f} s")
                continue
            for arrived in self.ears.recv(64):
                if arrived == 0:
                    return
                if arrived not in self.mine:  # others come here too, such as a child's end
                    continue
                if not first:
                    first, number = time.monotonic(), arrived
                elif time.monotonic() - first > ECHO:
                    _leave(arrived, "ended at once by a second signal")


_watch: _Watch | None = None


def _is_heeded(number: int) -> bool:
    """Not where a shell or nohup has told the process to ignore it."""
    return signal.getsignal(number) != signal.SIG_IGN


def _leave(number: int, why: str) -> None:
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
        os.write(2, f"unmask: {name_of(number)}: {why}; what was saved before is kept\n".encode())
    os._exit(STATUS + number)


def _forget() -> None:
    global _watch
    if _watch is not None:
        _watch.forget()
        _watch = None


os.register_at_fork(after_in_child=_forget)


@contextmanager
def listening() -> Iterator[None]:
    """Answer SIGTERM and SIGINT; within another one, or outside the main thread, do nothing more.

    Raises:
        Stopped: in the main thread, wherever it is, unless that is :func:`postponed`.
    """
    global _watch
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _watch = _Watch()
    try:
        yield
    finally:
        if _watch is not None:  # else this is a forked child
            _watch.end()
            _watch = None


@contextmanager
def postponed() -> Iterator[None]:
    """Only note signals, and raise at the end what has arrived."""
    if _watch is None:
        yield
        return
    _watch.postponed += 1
    try:
        yield
    finally:
        if _watch is not None:
            _watch.postponed -= 1
    if _watch is not None:
        _watch.raise_if_any()


@contextmanager
def released() -> Iterator[None]:
    """Within :func:`postponed`, do something that may be broken off: signals raise."""
    if _watch is None:
        yield
        return
    depth, _watch.postponed = _watch.postponed, 0
    try:
        _watch.raise_if_any()
        yield
    finally:
        if _watch is not None:
            _watch.postponed = depth


@contextmanager
def saving() -> Iterator[None]:
    """Something is being saved: the end waits for it, unless a second signal comes."""
    if _watch is None:
        yield
        return
    _watch.saving = True
    try:
        yield
    finally:
        if _watch is not None:
            _watch.saving = False


def arrived() -> int:
    """Number of the signal that has arrived; 0 for none."""
    return 0 if _watch is None else _watch.number or 0


def leave(end: KeyboardInterrupt) -> int:
    """Say an end in one line; the exit status for it."""
    number = end.number if isinstance(end, Stopped) else int(signal.SIGINT)
    said = str(end if isinstance(end, Stopped) else Stopped(number))
    if said and os.environ.get("RANK", "0") == "0":  # one of a launcher's processes speaks
        print(f"unmask: {said}", file=sys.stderr, flush=True)
    return STATUS + number
