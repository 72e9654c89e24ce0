"""Files that are either whole or not there, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmask.errors import InputError

ASIDE = ".partial"  # ending of what is still being built, and of what is being removed


ROOM = (errno.ENOSPC, errno.EDQUOT)
RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


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


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
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
    source.rename(target)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file over an older one, which stays whole until the new one is."""
    aside = path.with_name(f".{path.name}{ASIDE}")
    write_file(aside, data)
    aside.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder under a hidden name, so that half of it is never met under its own."""
    if not path.name.endswith(ASIDE):
        hidden = path.with_name(f".{path.name}.old{ASIDE}")
        shutil.rmtree(hidden, ignore_errors=True)
        move(path, hidden)
        path = hidden
    shutil.rmtree(path)
