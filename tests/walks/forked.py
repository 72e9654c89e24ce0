"""Commands in forked children of one warm process, with a limit of time and of memory.

A child starts with everything imported, so that thousands of commands take minutes. What it may
claim beyond its parent is a limit of its address space; what it says is kept and judged.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SECONDS = 60  # of the processor, which other work on the machine does not stretch
CLOCK = 300  # seconds after which a child that waits for something is ended too
MEMORY = 2 << 30  # bytes beyond the parent's
STARTED, REFUSED, FAILED, SLOW = "started", "one line", "failed", "too slow"
VERDICT = 1  # exit status of a command whose answer is no, such as --overfit-one-batch
CRASHED = 70  # exit status of a child that an exception ended


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    kind: str
    """One of the four above."""
    status: int
    """Exit status, negative for a signal."""
    told: str
    """Its stderr."""
    said: str
    """Its stdout."""
    seconds: float
    """From fork to end."""


def address_space() -> int:
    """Bytes of this process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _child(call: Callable[[], int], folder: Path, limit: int) -> NoReturn:
    """Run the call in its own folder, its words in files, and end without the parent's exits."""
    status = CRASHED
    try:
        os.chdir(folder)
        for name, stream in (("stdout", 1), ("stderr", 2)):
            handle = os.open(folder.parent / f"{folder.name}.{name}", os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w") for stream in (1, 2))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(CLOCK)
        status = call()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def judged(status: int, told: str, said: str, seconds: float) -> Answer:
    """The answer of a command that ended so."""
    kind = FAILED
    if status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        kind = SLOW
    elif status == 2 and told.startswith("unmask: error: ") and told.endswith("\n"):
        kind = REFUSED if told[:-1].isprintable() else FAILED
    elif (status == 0 and "Traceback" not in told) or (status, told) == (VERDICT, ""):
        kind = STARTED
    return Answer(kind, status, told, said, seconds)


def answers(
    calls: Iterable[tuple[object, Callable[[], int]]], *, workers: int
) -> Iterator[tuple[object, Answer]]:
    """Run calls, several at a time, each in a fresh folder that is deleted after it.

    Args:
        calls: what each is called, and what it does in its child; it returns an exit status.
        workers: children at a time.

    Yields:
        Names and answers, in the order in which children end.
    """
    limit, waiting = address_space() + MEMORY, iter(calls)
    with tempfile.TemporaryDirectory() as root:
        running: dict[int, tuple[object, Path, float]] = {}
        for number, (name, call) in enumerate(waiting):
            folder = Path(root) / str(number)
            folder.mkdir()
            sys.stdout.flush()
            sys.stderr.flush()
            began = time.monotonic()
            child = os.fork()
            if not child:
                _child(call, folder, limit)
            running[child] = (name, folder, began)
            if len(running) >= workers:
                yield _ended(running)
        while running:
            yield _ended(running)


def _ended(running: dict[int, tuple[object, Path, float]]) -> tuple[object, Answer]:
    child, status = os.wait()
    name, folder, began = running.pop(child)
    seconds = time.monotonic() - began
    told, said = (
        folder.with_name(f"{folder.name}.{stream}").read_text(errors="backslashreplace")
        for stream in ("stderr", "stdout")
    )
    shutil.rmtree(folder, ignore_errors=True)
    return name, judged(os.waitstatus_to_exitcode(status), told, said, seconds)
