"""Hashes of bytes and of files, 128 bits of blake2b; and stamps, which change when files do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from hashlib import blake2b
from pathlib import Path

SIZE = 16  # bytes of a hash


def digest_of(content: bytes) -> str:
    """32 hexadecimal digits that stand for some bytes."""
    return blake2b(content, digest_size=SIZE).hexdigest()


def digest_of_file(file: Path) -> str:
    """32 hexadecimal digits that stand for a file, which is read piece by piece.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, partial(blake2b, digest_size=SIZE)).hexdigest()


def total(digests: Iterable[str]) -> str:
    """One hash of several, whatever their order and however they are grouped."""
    return f"{sum(int(digest, 16) for digest in digests) % 2 ** (8 * SIZE):0{2 * SIZE}x}"


def file_stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of the last change in nanoseconds of a file; zeros when it is gone."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
