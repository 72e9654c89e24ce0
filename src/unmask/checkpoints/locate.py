"""Where a name leads: a folder, a finished run, shipped weights, or a hub repository."""

from __future__ import annotations

import os
from pathlib import Path

from unmask.assets import shipped_folder, shipped_names
from unmask.checkpoints.hub import fetch_repository, is_repository
from unmask.checkpoints.store import CONFIG
from unmask.errors import InputError

EXPORT = "model"  # the folder inside a run that holds what it made
LONGEST_PART, LONGEST_PATH = 255, 4095  # bytes


def find_folder(name: str | Path) -> Path:
    """The saved model or tokenizer of that name.

    Args:
        name: a folder that holds one; a run, whose export is meant; a name of
            ``unmask.assets.shipped_names()``; or a hub repository ``owner/name``.

    Raises:
        InputError: when there is none.
    """
    folder = Path(name)
    check_path(folder)
    for candidate in (folder, folder / EXPORT):
        if (candidate / CONFIG).is_file():
            return candidate
    if shipped := shipped_folder(str(name)):
        return shipped
    if folder.exists():
        raise InputError(f"{name} holds neither {CONFIG} nor {EXPORT}/: no model and no ended run")
    if is_repository(str(name)):
        return fetch_repository(str(name))
    shipped_list = ", ".join(shipped_names()) or "none"
    raise InputError(f"nothing is saved at {str(name)!r}; shipped: {shipped_list}")


def check_path(path: Path) -> None:
    """Refuse a path that no file system can hold, which asking for it would be an error.

    Raises:
        InputError: for a part of more than 255 bytes, more than 4,095 in all, or a zero byte.
    """
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > LONGEST_PART or len(os.fsencode(path)) > LONGEST_PATH:
        shown = f"{str(path)[:40]}…"
        raise InputError(f"{shown!r} is longer than a path may be (255 bytes between slashes)")
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} holds a zero byte, which no path may")
