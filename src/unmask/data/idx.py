"""MNIST's IDX files, plain or gzip: Fashion-MNIST, MNIST, EMNIST and their kin."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from unmask.data.classes import join_classes, read_class_names
from unmask.data.reader import Reader
from unmask.data.split import Split
from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason
from unmask.files.digests import file_stamp
from unmask.text import some

# As in train-images-idx3-ubyte.gz, t10k-labels.idx1-ubyte, emnist-letters-test-images-idx3-ubyte.
NAME = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
SIDES: dict[str, Split] = {"train": "train", "t10k": "val", "test": "val"}
UNSIGNED_BYTES = 8  # the type code in an IDX header
DIMENSIONS = {"images": 3, "labels": 1}
DENSEST, FREELY = 100, 1 << 26  # how often more than its bytes a .gz may hold, and what any may


def read_idx(file: Path, what: str = "images") -> np.ndarray:
    """The array of an IDX file of unsigned bytes.

    No more than the header states is unpacked, and no more than the file may honestly hold.

    Args:
        file: gzip when its name ends in .gz.
        what: "images", of 3 dimensions (N, H, W), or "labels", of one.

    Returns:
        uint8, of the header's shape.

    Raises:
        InputError: not such a file, of other dimensions, without pixels, or cut.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            shape = _read_shape(stream, file, what)
            content = _read_data(stream, math.prod(shape), file, header=4 + 4 * len(shape))
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{file} cannot be read ({reason(error)}); download it again") from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_shape(stream: IO[bytes] | gzip.GzipFile, file: Path, what: str) -> tuple[int, ...]:
    start = stream.read(4)
    if len(start) < 4 or start[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise InputError(f"{file} is not an IDX file of unsigned bytes; download it again")
    if start[3] != DIMENSIONS[what]:
        meant = "grey images have 3 (N, H, W)" if what == "images" else "labels have 1"
        raise InputError(f"{file} has {start[3]} dimensions; {meant}")
    sizes = stream.read(4 * start[3])
    shape = tuple(int(size) for size in np.frombuffer(sizes[: len(sizes) // 4 * 4], ">u4"))
    if len(shape) < start[3] or not math.prod(shape[1:]):
        raise InputError(f"{file} holds images of no pixels or no header; download it again")
    return shape


def _read_data(stream: IO[bytes] | gzip.GzipFile, size: int, file: Path, *, header: int) -> bytes:
    """What follows the header, which must be as much as it states."""
    packed = file.stat().st_size
    if file.suffix == ".gz" and size > max(FREELY, DENSEST * packed):
        raise InputError(
            f"{file} has {packed:,} bytes and states {size:,} bytes of data, more than "
            f"{DENSEST} times as much; download it again"
        )
    if file.suffix != ".gz" and packed - header != size:
        found = f"{packed - header}"
    else:
        content = stream.read(size + 1)
        if len(content) == size:
            return content
        found = f"{len(content)}" if len(content) < size else f"more than {size}"
    raise InputError(
        f"{file} holds {found} bytes of data, its header says {size}; download it again"
    )


class _Files(NamedTuple):
    """The files of one side."""

    part: str  # as the names call it
    images: Path
    labels: Path | None


def _find(path: Path) -> dict[Split, _Files]:
    """The sides of the one data set at a path: its folder, or a file of its images.

    Raises:
        InputError: the folder holds several data sets.
    """
    folder = path.parent if path.is_file() else path
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := NAME.fullmatch(file.name)) and file.is_file():
            name, part, what = match.groups(default="")
            found.setdefault(name, {}).setdefault((part, what), file)  # plain before .gz
    sets = {name: files for name, files in found.items() if any(w == "images" for _, w in files)}
    if path.is_file():
        sets = {name: files for name, files in sets.items() if path in files.values()}
    if len(sets) > 1:
        raise InputError(
            f"{path} holds {len(sets)} data sets of IDX files ({some(sets, 6)}); "
            "give the file of the training images of one"
        )
    return {
        SIDES[part]: _Files(part, file, files.get((part, "labels")))
        for files in sets.values()
        for (part, what), file in files.items()
        if what == "images"
    }


def _chosen(found: Mapping[Split, _Files], split: Split) -> list[Split]:
    """The sides that are there and wanted, training first."""
    sides: tuple[Split, ...] = ("train", "val")
    return [side for side in sides if side in found and split in (side, "all")]


class IdxImages(Reader[int]):
    """Grey images of ``train-images-idx3-ubyte`` and ``t10k-…`` with their labels, in memory.

    Args:
        path: folder of the files, or a file of images; ``classes.json`` beside names the classes.
        split: train or t10k (test), which is "val", where both exist.

    Raises:
        InputError: a damaged file, counts that differ, or several data sets in one folder.
    """

    kind = "MNIST IDX files (train-images-idx3-ubyte[.gz], …)"

    def __init__(self, path: Path, split: Split) -> None:
        found = _find(path)
        chosen = _chosen(found, split)
        pixels = {side: read_idx(found[side].images) for side in chosen}
        labels = {side: self._read_labels(files) for side, files in found.items()}
        self.total = sum(len(pixels.get(side, labels[side])) for side in found)
        self._check_counts(found, pixels, labels)
        self._pixels = self._joined(pixels.values(), path)  # (N, H, W)
        parts = [(found[side].part, range(len(pixels[side]))) for side in chosen]
        self._keys = [f"{part}[{row}]" for part, rows in parts for row in rows]
        stamps = [(file_stamp(found[side].images), len(pixels[side])) for side in chosen]
        self._stamps = [(*stamp, row) for stamp, count in stamps for row in range(count)]
        self.places = range(len(self._keys))
        folder = path.parent if path.is_file() else path
        classes = join_classes(list(labels.values()), read_class_names(folder), where=str(path))
        known = dict(zip(labels, classes.labels, strict=True))
        own = (known[side] or [None] * len(pixels[side]) for side in chosen)
        self.set_labels(list(chain.from_iterable(own)), classes.names)
        self.notes = classes.notes

    @staticmethod
    def _read_labels(files: _Files) -> list[int | None]:
        """Empty without a file of labels."""
        return [] if files.labels is None else read_idx(files.labels, "labels").tolist()

    @staticmethod
    def _check_counts(
        found: dict[Split, _Files],
        pixels: dict[Split, np.ndarray],
        labels: dict[Split, list[int | None]],
    ) -> None:
        for side, images in pixels.items():
            file = found[side].labels
            if file is not None and len(labels[side]) != len(images):
                raise InputError(
                    f"{file} holds {len(labels[side])} labels for {len(images)} images; "
                    "fetch both anew"
                )
        known = [found[side].labels is not None for side in pixels]
        if any(known) and not all(known):
            raise InputError(
                f"{next(found[side].images for side in pixels if found[side].labels is None)} has "
                "no file of labels beside it, the other side has; label all or none"
            )

    @staticmethod
    def _joined(pixels: Iterable[np.ndarray], path: Path) -> np.ndarray:
        parts = list(pixels)
        if len({part.shape[1:] for part in parts}) > 1:
            sizes = " and ".join(" x ".join(map(str, part.shape[1:])) for part in parts)
            raise InputError(f"{path} holds images of {sizes} pixels; take one size")
        return np.concatenate(parts)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether files of images lie in ``path``, or it is one."""
        named = not path.is_file() or NAME.fullmatch(path.name)
        return bool(named and _find(path))

    @classmethod
    def official_split(cls, path: Path) -> str:
        """The rule of the data set's own split; empty when one side is missing."""
        found = _find(path)
        if len(found) < 2:
            return ""
        return f"official split by file name: train-* and {found['val'].part}-*"

    def key(self, row: int) -> str:
        """File and row, as in ``train[17]``."""
        return self._keys[self.places[row]]

    def content(self, row: int) -> bytes:
        """The pixels as a PGM file, which :func:`~unmask.data.decoding.decode_image` reads."""
        pixels = self._pixels[self.places[row]]
        return b"P5 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()

    def stamp(self, row: int) -> tuple[int, ...]:
        """Bytes and time of the file as it was opened, and the image's row in it."""
        return self._stamps[self.places[row]]

    def image(self, row: int) -> Image.Image:
        """A grey image."""
        return Image.fromarray(self._pixels[self.places[row]])
