"""The images for training and those for validation.

A data set's own split is used where there is one; otherwise the key of an image decides, so that
adding or removing others never moves it from one side to the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, get_args

from unmask.errors import InputError, unknown

Split = Literal["train", "val", "all"]

# What the two sides are called, in any letter case; the first that exists is the one used.
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "dev", "test", "testing", "eval")


def check_split(split: str, val_share: float) -> None:
    """Reject a split that does not exist.

    Raises:
        InputError: unknown name, or a share outside (0, 1).
    """
    if split not in get_args(Split):
        raise unknown("split", split, get_args(Split))
    if not 0 < val_share < 1:
        raise InputError(f"val_share={val_share} must lie between 0 and 1, as in 0.1")


def split_files(files: Sequence[Path]) -> dict[Split, list[Path]]:
    """The files of train and val by their names, ``train-…`` and ``val-…``; {} without both."""

    def _starting(names: Sequence[str]) -> list[Path]:
        for name in names:
            pattern = re.compile(rf"{name}(?![a-z])", re.IGNORECASE)
            if found := [file for file in files if pattern.match(file.name)]:
                return found
        return []

    train, val = _starting(TRAIN_NAMES), _starting(VAL_NAMES)
    return {"train": train, "val": val} if train and val else {}


def file_rule(sides: Mapping[Split, Sequence[Path]]) -> str:
    """The sentence that states an official split by file name; empty when there is none."""
    first = [f"{files[0].name}, …" for files in sides.values()]
    return f"official split by file name: {' and '.join(first)}" if first else ""


def split_folder(folders: Iterable[str], names: Sequence[str], path: Path) -> str | None:
    """The folder of one side, the first of ``names`` that exists in any letter case.

    Args:
        folders: that lie in ``path``.
        names: what the side may be called.
        path: for messages.

    Raises:
        InputError: two folders differ in letter case alone.
    """
    for name in names:
        found = sorted(folder for folder in folders if folder.lower() == name)
        if len(found) > 1:
            raise InputError(f"{path} holds the folders {' and '.join(found)}; keep one of them")
        if found:
            return found[0]
    return None


def hash_rule(val_share: float) -> str:
    """The sentence that states what :func:`hashed_rows` does."""
    return f"no official split: an image is val when blake2b-64 of its key / 2^64 < {val_share:g}"


def hashed_rows(keys: Iterable[str], split: Split, val_share: float) -> list[int]:
    """Rows of one side of the split by key.

    Args:
        keys: one an image, relative to the data set.
        split: which side; "all" takes every row.
        val_share: expected share of val, in (0, 1).

    Returns:
        Ascending rows.
    """

    def _is_val(key: str) -> bool:
        digest = blake2b(key.encode("utf8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < val_share * 2**64

    return [i for i, key in enumerate(keys) if split == "all" or _is_val(key) == (split == "val")]
