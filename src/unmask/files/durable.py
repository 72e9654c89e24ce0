"""Files that are either whole or not there, whenever the process is killed or the disk is full.

What a command writes is built aside, under a hidden name that says who builds it, and renamed once
it is whole. What a process that was killed has left aside is removed by the next one that writes
in that folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from unmask.errors import InputError

ASIDE = ".partial"  # ending of what is still being built, and of what is being removed
PERISHABLE = "the new one is there, but a failure of the power could undo it"
ROOM = (errno.ENOSPC, errno.EDQUOT)
RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
WRITER = re.compile(rf"\..*\.(?P<host>[^.]+)\.(?P<pid>\d+){re.escape(ASIDE)}", re.DOTALL)
LONGEST = 120  # bytes of a name that its name aside repeats; file systems allow 255
ENDS = (Exception, KeyboardInterrupt, SystemExit, GeneratorExit)  # of a block that can tidy up
DAY = 86400.0  # seconds after which what another machine has left aside counts as left


@contextmanager
def explained(what: Path, intact: str) -> Iterator[None]:
    """Turn a failure of the file system into one line for a person.

    Args:
        what: the path that was being written.
        intact: what is still whole, a clause.

    Raises:
        InputError: for any ``OSError`` inside, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        reason, way = error.strerror or str(error), "choose another place and start again"
        if error.errno in ROOM:
            reason += f", {free_space(what)} free there"
            way = "make room or choose another folder and start again"
        elif error.errno in RIGHTS:
            way = "get the right to write there, or choose another folder"
        elif error.errno == errno.ENAMETOOLONG:
            way = "shorten it"
        raise InputError(f"cannot write {what}: {reason}; {intact}; {way}") from error


def free_space(path: Path) -> str:
    """Free space of the file system that holds ``path``, which need not exist yet."""
    for there in (path, *path.absolute().parents):
        with suppress(OSError):
            return f"{shutil.disk_usage(there).free / 2**20:,.0f} MiB"
    return "an unknown part"


@contextmanager
def output(path: Path, intact: str = "", *, one_of_many: bool = False) -> Iterator[Path]:
    """A file to write; it takes its name when it is whole, and an older one stays until then.

    Whatever library writes it, it gets the permissions that the process's umask leaves. A link is
    followed, and what is no ordinary file (a pipe, a terminal) is written straight.

    Args:
        path: of the file; its folder is made when missing.
        intact: what is whole if this fails, a clause; "" says what is true of this file.
        one_of_many: leave it to the system when the disk gets it, and do not look for what dead
            processes have left in the folder, see :func:`clear_leftovers`.

    Yields:
        Where to write it now.

    Raises:
        InputError: if the disk is full or refuses; nothing is left of the new file.
    """
    older = "the older one is whole" if os.path.lexists(path) else "nothing is left of it"
    with outputs(path, named=path, intact=intact or older, one_of_many=one_of_many) as (aside,):
        yield aside


@contextmanager
def outputs(
    *paths: Path, named: Path, intact: str, one_of_many: bool = False
) -> Iterator[list[Path]]:
    """Files that belong together: all are written before the first of them takes its name.

    Args:
        paths: of the files, in the order in which they take their names.
        named: what errors call them.
        intact: what is whole if this fails, a clause.
        one_of_many: see :func:`output`.

    Yields:
        Where to write them now.

    Raises:
        InputError: see :func:`output`.
    """
    with explained(named, intact):
        finals = [path.resolve() if path.is_symlink() else path for path in paths]
        asides = [aside_of(final) if _is_ordinary(final) else final for final in finals]
        moved = {a: final for a, final in zip(asides, finals, strict=True) if a != final}
        folders = {final.parent for final in moved.values()}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            if not one_of_many:
                clear_leftovers(folder)
        with _renamed(moved, wait=not one_of_many):
            yield asides
    if not one_of_many:
        with explained(named, PERISHABLE):
            for folder in folders:
                sync_folder(folder)


@contextmanager
def _renamed(moved: dict[Path, Path], *, wait: bool) -> Iterator[None]:
    """Make files that take their names when the block has ended; none stays if it fails."""
    try:
        modes = {aside: _create(aside) for aside in moved}
        yield
        for aside, mode in modes.items():
            _finish(aside, mode, wait=wait)
        for aside, final in moved.items():
            aside.replace(final)
    except ENDS:
        for aside in moved:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        raise


def _is_ordinary(path: Path) -> bool:
    """Whether a file may take this name, or a folder has it, which will not be replaced."""
    return path.is_file() or path.is_dir() or not path.exists()


def _create(path: Path) -> int:
    """Make an empty file; the permissions that it got."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def _finish(path: Path, mode: int, *, wait: bool) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:  # a library has put its own file there
        path.chmod(mode)
    if wait:
        sync_file(path)


@contextmanager
def output_folder(path: Path, intact: str = "nothing is left of it") -> Iterator[Path]:
    """A new folder to fill; it takes its name when it is whole.

    Args:
        path: of the folder, which is empty or not there when the block ends; the one around it is
            made when missing.
        intact: what is whole if this fails, a clause.

    Yields:
        The folder to fill now.

    Raises:
        InputError: if the disk is full or refuses; nothing is left of the new folder.
    """
    with explained(path, intact):
        final = path.resolve()
        final.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(final.parent)
        aside = aside_of(final)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir()
            yield aside
            for place in sorted(aside.rglob("*")):
                sync_folder(place) if place.is_dir() else sync_file(place)
            sync_folder(aside)
            move(aside, final)
        except ENDS:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    with explained(path, PERISHABLE):
        sync_folder(final.parent)


def replace_file(path: Path, data: bytes, intact: str = "") -> None:
    """Write a file; an older one stays whole until the new one is, see :func:`output`."""
    with output(path, intact) as aside:
        aside.write_bytes(data)


@cache
def _here() -> str:
    """This machine, and the space of process numbers on it, in a part of a file's name."""
    space = ""
    with suppress(OSError):
        space = "-" + re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:64] + space


def aside_of(path: Path) -> Path:
    """The hidden name, of this process alone, under which ``path`` is built."""
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    return path.with_name(f".{name}.{_here()}.{os.getpid()}{ASIDE}")


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that are dead were building in a folder."""
    with suppress(OSError):  # it may not be ours to list or to clear
        for entry in list(os.scandir(folder)):
            named = WRITER.fullmatch(entry.name)
            if not named or not _is_left(entry, named["host"], int(named["pid"])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _is_left(entry: os.DirEntry[str], host: str, pid: int) -> bool:
    if host == _here():
        return not is_running(pid)
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > DAY


def is_running(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def sync_file(path: Path) -> None:
    """Wait until the disk has a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename on one file system; the new name is there whole or not at all."""
    source.replace(target)


def remove_folder(path: Path) -> None:
    """Remove a folder under a hidden name, so that half of it is never met under its own."""
    if not path.name.endswith(ASIDE):
        hidden = path.with_name(f".{path.name}.old{ASIDE}")
        shutil.rmtree(hidden, ignore_errors=True)
        move(path, hidden)
        path = hidden
    shutil.rmtree(path)
