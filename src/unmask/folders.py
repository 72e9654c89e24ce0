"""Which folders may be written into: new ones, empty ones, and those of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unmask.durable import ASIDE
from unmask.errors import InputError


def check_folder(folder: Path, what: str, *, may_hold: Callable[[], bool] = lambda: False) -> None:
    """Refuse a file, and a folder that holds other things; nothing is written.

    Hidden files, and those that are still being built, do not count.

    Args:
        folder: need not exist.
        what: what is to lie there, for the error.
        may_hold: asked of a folder that is not empty: whether it may be used all the same.

    Raises:
        InputError: naming what is there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a new folder for the {what}")
    there = sorted(p.name for p in folder.glob("[!.]*") if not p.name.endswith(ASIDE))
    if there and not may_hold():
        raise InputError(f"{folder} holds {there[0]!r} but no {what}; name a new or empty folder")
