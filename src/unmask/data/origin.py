"""What a shard of a cache was made from: key, label, hash and stamp of every image, in its rows.

It lies beside the shard as ``codes-00000.origin``, compressed JSON. The hashes are taken of the
encoded bytes while they are read for the shard. Later the stamps (size and time of the file, place
in it) tell which images have to be read again to know whether they are the same.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from unmask.data.decoding import UnreadableImageError
from unmask.data.reader import EncodedImages, Listed
from unmask.errors import InputError
from unmask.files.damage import DAMAGE
from unmask.files.digests import digest_of, total
from unmask.files.json_files import parse_json
from unmask.text import some

MOST_BYTES = 1 << 30  # of the JSON of one shard; a million keys take a tenth


class Origin(NamedTuple):
    """The images of one shard, those that could not be read among them.

    Args:
        keys: Names of the images, as the source calls them.
        labels: Class of each image, None if unlabelled.
        digests: Hash of each image's encoded bytes; empty where they could not be had.
        stamps: What stands for size, time and place of each image's file when it was read.
    """

    keys: list[str]
    labels: list[int | None]
    digests: list[str]
    stamps: list[str]

    @property
    def digest(self) -> str:
        """What stands for keys, labels and bytes; the same wherever the files lie."""
        rows = zip(self.keys, self.labels, self.digests, strict=True)
        return total(digest_of(repr(row).encode()) for row in rows)

    def content(self) -> bytes:
        """The file; the same bytes for the same images."""
        return gzip.compress(json.dumps(self._asdict()).encode(), 6, mtime=0)


def read_origin(file: Path, digest: str) -> Origin | None:
    """The origin with this digest; None where the file is missing or altered."""
    try:
        with gzip.open(file) as stream:
            found = parse_json(stream.read(MOST_BYTES), str(file))
        origin = Origin(**found)  # type: ignore[arg-type]
        return origin if origin.digest == digest else None
    except (InputError, *DAMAGE):
        return None


def stamp_of(source: EncodedImages, row: int) -> str:
    """A source's stamp of an image in sixteen digits."""
    return digest_of(repr(tuple(source.stamp(row))).encode())[:16]


def compare(origin: Origin, source: EncodedImages, rows: range) -> tuple[list[str], Origin]:
    """Images of a shard that have other bytes now; those whose stamps differ are read.

    Args:
        origin: of the shard, with the keys of these rows.
        source: the images now.
        rows: of the shard.

    Returns:
        Keys of the images that are others, and the origin with the stamps of now.
    """
    stamps = [stamp_of(source, row) for row in rows]
    doubtful = [i for i, stamp in enumerate(stamps) if stamp != origin.stamps[i]]

    def _digest(place: int) -> str:
        try:
            return digest_of(source.content(rows[place]))
        except UnreadableImageError:
            return ""

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(_digest, doubtful))
    pairs = zip(doubtful, found, strict=True)
    altered = [origin.keys[i] for i, digest in pairs if digest != origin.digests[i]]
    return altered, origin._replace(stamps=stamps)


class Difference(NamedTuple):
    """How the images of a cache and those of a source differ.

    Args:
        added: Keys that the cache has not.
        removed: Keys that the source has not.
        relabelled: Keys of images of another class.
        altered: Keys of images of other bytes.
        other: What else differs, a clause.
    """

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    relabelled: Sequence[str] = ()
    altered: Sequence[str] = ()
    other: str = ""

    def __str__(self) -> str:
        """What differs, with the first few keys."""
        parts = [
            f"{len(keys)} {what} ({some(keys)})"
            for keys, what in (
                (self.added, "added"),
                (self.removed, "removed"),
                (self.relabelled, "of another class"),
                (self.altered, "of other bytes"),
            )
            if keys
        ]
        return ", ".join(parts + [self.other] * bool(self.other))


def difference(origins: Sequence[Origin], source: Listed) -> Difference:
    """What was added, removed or put into another class since all these shards were made."""
    before = {k: label for o in origins for k, label in zip(o.keys, o.labels, strict=True)}
    now = {source.key(row): source.label(row) for row in range(len(source))}
    found = Difference(
        added=[key for key in now if key not in before],
        removed=[key for key in before if key not in now],
        relabelled=[key for key in now if key in before and before[key] != now[key]],
    )
    return found if any(found) else found._replace(other="their order")
