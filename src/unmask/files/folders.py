"""Whether the place of a result will do, found out before the work that makes the result."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from unmask.errors import InputError
from unmask.files.durable import ASIDE, RIGHTS, explained, replace_file
from unmask.files.json_files import read_json
from unmask.text import some

PROBE = bytes(4096)  # what a disk that is not full takes
NAME = 255  # bytes of a file's name, on file systems that do not say


def as_place(given: str | Path) -> Path:
    """A path from what a person typed: "~" is the home folder, and an empty text no place.

    Raises:
        InputError: for an empty text.
    """
    if not str(given).strip():
        raise InputError("a path must not be empty; the current folder is .")
    try:
        return Path(given).expanduser()
    except RuntimeError:  # "~name" of nobody here
        return Path(given)


def beside(folder: Path, ending: str) -> Path:
    """The place next to a folder, under the folder's name and an ending.

    Raises:
        InputError: for the root, which has no name.
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        raise InputError(f"{folder} has no folder around it; name another one")
    return named.with_name(named.name + ending)


def check_folder(folder: Path, what: str, *, may_hold: Callable[[], bool] = lambda: False) -> None:
    """Refuse a place that is no folder, holds other things or takes no files; nothing is written.

    Hidden files, and those that are still being built, do not count.

    Args:
        folder: need not exist.
        what: what is to lie there, for the error.
        may_hold: asked of a folder that is not empty: whether it may be used all the same.

    Raises:
        InputError: naming what is there, or why nothing can be written there.
    """
    with explained(folder, "nothing was done"):
        if os.path.lexists(folder) and not folder.is_dir():
            kind = "a file" if folder.exists() else "a link to nothing"
            raise InputError(f"{folder} is {kind}; name a new folder for the {what}")
        there = visible(folder)
        if there and not may_hold():
            raise InputError(
                f"{folder} holds {there[0]!r} but no {what}; name a new or empty folder"
            )
        _check_writable(folder)


def visible(folder: Path) -> list[str]:
    """Names in a folder, less what is hidden or still being built; none if it is not there."""
    return sorted(p.name for p in folder.glob("[!.]*") if not p.name.endswith(ASIDE))


def fates(before: Sequence[str], written: Collection[str]) -> list[str]:
    """What became of the things that a folder of results held, a line each.

    Args:
        before: what :func:`visible` gave.
        written: names of the results.
    """
    lines = {
        "replaced what an earlier command wrote": [n for n in before if n in written],
        "there before, and left as it was": [n for n in before if n not in written],
    }
    return [f"{what}: {some(names)}" for what, names in lines.items() if names]


def claim(
    folder: Path,
    settings: Mapping[str, str],
    what: str,
    *,
    file: str,
    option: str,
    alone: bool = True,
) -> None:
    """Make a folder that of one piece of work, which may come back to it; refuse any other.

    Args:
        folder: made when missing.
        settings: everything that decides the results.
        what: what lies there, for the error.
        file: name of the file that keeps the settings.
        option: with which another folder is given.
        alone: whether the folder must hold nothing else when it is claimed.

    Raises:
        InputError: naming the setting that differs, or what else is there; or the disk refuses.
    """
    held = folder / file
    check_folder(folder, what, may_hold=lambda: held.exists() or not alone)
    if not held.exists():
        replace_file(held, json.dumps(dict(settings), indent=1).encode(), "nothing was done")
        return
    found: object = None
    with suppress(InputError):
        found = read_json(held)
    if not isinstance(found, dict):
        raise InputError(f"{held} is damaged; give a new folder ({option})")
    differing = [k for k in {**settings, **found} if found.get(k) != settings.get(k)]
    for name in differing:
        raise InputError(
            f"{folder} holds another {what}: {name} was {found.get(name)!r} and is "
            f"{settings.get(name)!r} now; give a new folder ({option})"
        )


def check_file(path: Path, what: str) -> None:
    """Refuse a place where no file can be written; nothing is written.

    Args:
        path: need not exist, nor the folders around it; an older file will be replaced.
        what: what is to lie there, for the error.

    Raises:
        InputError: for a folder, or saying why nothing can be written there.
    """
    with explained(path, "nothing was done"):
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file in it for the {what}")
        if path.exists() and not path.is_file():  # a pipe, a terminal
            return
        real = path.resolve() if path.is_symlink() else path
        _check_writable(real.parent, real.name)


def check_readable(path: Path) -> None:
    """Make sure that this user may read a file, which libraries report in other words.

    Raises:
        InputError: saying why not.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        way = "; ask its owner for the right to" if error.errno in RIGHTS else ""
        raise InputError(f"cannot read {path}: {error.strerror}{way}") from None


def _check_writable(folder: Path, *names: str) -> None:
    """Find out by writing whether a folder takes files, or the one in which it will be made."""
    around = (folder, *folder.absolute().parents)
    missing, there = list(names), around[0]
    for there in around:
        if os.path.lexists(there):
            break
        missing.append(there.name)
    if not there.is_dir():
        raise InputError(f"cannot write {folder}: {there} is no folder; name another place")
    longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else NAME
    for name in missing:
        if (size := len(os.fsencode(name))) > longest:
            raise InputError(
                f"the name {name[:20]!r}... has {size} bytes, {there} allows {longest}; shorten it"
            )
    with tempfile.TemporaryFile(dir=there, buffering=0) as probe:
        probe.write(PROBE)
