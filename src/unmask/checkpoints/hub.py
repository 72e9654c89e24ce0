"""Repositories of the Hugging Face hub: their names, what is fetched, and why it was not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from unmask.errors import InputError

# The hub's own rules: letters, digits, "-", "_", "."; no name begins or ends with "-" or ".".
PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
NAME = re.compile(rf"{PART}/{PART}")
LONGEST = 96  # letters of owner and name


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
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and "Request ID" not in line]
    return (telling or lines or [type(error).__name__])[0].rstrip(".") or type(error).__name__
