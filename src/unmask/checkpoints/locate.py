"""Where a name leads: a folder, a finished run, shipped weights, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from unmask.assets import shipped_folder, shipped_names
from unmask.checkpoints.store import CONFIG
from unmask.errors import InputError
from unmask.files.damage import reason

EXPORT = "model"  # the folder inside a run that holds what it made
LONGEST_PART, LONGEST_PATH = 255, 4095  # bytes
# The hub's own rules: letters, digits, "-", "_", "."; no name begins or ends with "-" or ".".
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
NAME = re.compile(rf"{PART}/{PART}")
LONGEST = 96  # letters of owner and name


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
    raise InputError(f"nothing is saved at {str(name)!r}; shipped: {', '.join(shipped_names())}")


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


def is_repository(name: str) -> bool:
    """Whether the hub could have a repository ``owner/name`` of that name."""
    allowed = NAME.fullmatch(name) is not None and len(name) <= LONGEST
    return allowed and "--" not in name and ".." not in name and not name.endswith(".git")


def fetch_repository(name: str) -> Path:
    """The folder of a repository, fetched unless it was before.

    Raises:
        InputError: when the hub does not give it, with its reason.
    """
    from huggingface_hub import snapshot_download

    return _fetched(lambda: snapshot_download(name), f"{name!r} is no folder here")


def fetch_file(repository: str, file: str, *, otherwise: str) -> Path:
    """A file of a repository, fetched unless it was before.

    Args:
        repository: ``owner/name``.
        file: its path in there.
        otherwise: the way out, a clause.

    Raises:
        InputError: when the hub does not give it, with its reason.
    """
    from huggingface_hub import hf_hub_download

    what = f"{repository}/{file} is not here"
    return _fetched(lambda: hf_hub_download(repository, file), what, otherwise)


def _fetched(fetch: Callable[[], str], what: str, otherwise: str = "") -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # of the hub's client and of whatever carries its requests
        way_out = f"; {otherwise}" if otherwise else ""
        raise InputError(f"{what}, and the hub says: {reason_of(error)}{way_out}") from error


def reason_of(error: Exception) -> str:
    """What a failure of the hub's client says, in one line, without numbers of requests."""
    lines = map(str.strip, str(error).splitlines())
    telling = [line for line in lines if line and "Request ID" not in line]
    return (telling[0] if telling else reason(error)).rstrip(".")
