"""Each system call of one write fails or kills; ``tests/walks`` does the same to whole commands."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from forks import forked, status

from unmask.errors import InputError
from unmask.files.durable import output, output_folder, outputs, replace_file

CALLS = ("open", "write", "fsync", "replace", "mkdir", "unlink", "rmdir", "chmod")
OLD, NEW = b"old" * 1000, b"new" * 1000
REFUSED, UNHURT = 3, 4  # statuses of a child that was refused in one line, or met no fault


def put(path: Path) -> None:
    """Write in two parts."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(handle, NEW[:1000])
    os.write(handle, NEW[1000:])
    os.close(handle)


def one(place: Path) -> None:
    with output(place / "a") as aside:
        put(aside)


def together(place: Path) -> None:
    with outputs(place / "a", place / "b", named=place, intact="both are whole") as asides:
        for aside in asides:
            put(aside)


def folder(place: Path) -> None:
    with output_folder(place / "set") as aside:
        put(aside / "a")
        put(aside / "b")


def bytes_alone(place: Path) -> None:
    replace_file(place / "a", NEW)


WRITES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "one": (one, ("a",)),
    "together": (together, ("a", "b")),
    "folder": (folder, ("set/a", "set/b")),
    "bytes": (bytes_alone, ("a",)),
}


def counted(at: int, fault: str) -> Callable[[], int]:
    """Make call ``at`` of this process fail or kill, before or after it is done."""
    done = 0

    def wrapped(name: str, real: Callable) -> Callable:
        def call(*words: object, **more: object) -> object:
            nonlocal done
            done += 1
            if done != at:
                return real(*words, **more)
            result = None
            if "after" in fault:
                with suppress(OSError):
                    result = real(*words, **more)
            if "kill" in fault:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "open" and isinstance(result, int):
                os.close(result)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))
    return lambda: done


@pytest.mark.parametrize("fault", ["kill before", "kill after", "full before", "full after"])
@pytest.mark.parametrize("write", WRITES)
def test_the_older_or_the_new_one(tmp_path: Path, write: str, fault: str) -> None:
    body, files = WRITES[write]
    tried = 0
    for at in range(1, 100):
        place = tmp_path / str(at)
        place.mkdir()
        if write != "folder":
            for name in files:
                (place / name).write_bytes(OLD)

        def child(place: Path = place, at: int = at) -> None:
            done = counted(at, fault)
            try:
                body(place)
            except InputError:
                os._exit(REFUSED)
            os._exit(0 if done() >= at else UNHURT)

        ended = status(forked(child))
        if ended == UNHURT:
            break
        tried += 1
        # A folder that need not be made may refuse to be, and what need not be removed likewise.
        assert ended in ((-signal.SIGKILL,) if "kill" in fault else (REFUSED, 0))
        for name in files:
            there = (place / name).read_bytes() if (place / name).exists() else None
            assert there in ((NEW, None) if write == "folder" else (OLD, NEW))
        if write != "folder" or not (place / "set").exists():
            body(place)
        assert {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} == set(files)
        assert all((place / name).read_bytes() == NEW for name in files)
    assert tried >= 6
