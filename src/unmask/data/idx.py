"""MNIST's IDX files, plain or gzip: Fashion-MNIST, MNIST and their kin."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from unmask.data.classes import names_for, read_class_names
from unmask.data.reader import Reader
from unmask.data.split import Split
from unmask.errors import InputError

PARTS: dict[Split, str] = {"train": "train", "val": "t10k"}
UNSIGNED_BYTES = 8  # the type code in an IDX header


def _find(path: Path, part: str, what: str) -> Path | None:
    names = [f"{part}-{what}-ubyte", f"{part}-{what}-ubyte".replace("-idx", ".idx")]
    files = [path / f"{name}{end}" for name in names for end in ("", ".gz")]
    return next((file for file in files if file.is_file()), None)


def read_idx(file: Path) -> np.ndarray:
    """The array of an IDX file of unsigned bytes.

    Args:
        file: gzip when its name ends in .gz.

    Returns:
        uint8, of the header's shape.

    Raises:
        InputError: not such a file, or truncated.
    """
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} cannot be read ({error}); download it again") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise InputError(f"{file} is not an IDX file of unsigned bytes; download it again")
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], ">u4").astype(int)
    if len(content) - start != shape.prod():
        raise InputError(
            f"{file} holds {len(content) - start} bytes of data, its header says {shape.prod()}; "
            "download it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


class IdxImages(Reader[int]):
    """Grey images of ``train-images-idx3-ubyte`` and ``t10k-…`` with their labels, in memory.

    Args:
        path: folder of the files; an optional ``classes.json`` beside them names the classes.
        split: train or t10k ("val") where both exist.

    Raises:
        InputError: a damaged file, or counts that differ.
    """

    kind = "MNIST IDX files (train-images-idx3-ubyte[.gz], …)"

    def __init__(self, path: Path, split: Split) -> None:
        found = [part for part in PARTS.values() if _find(path, part, "images-idx3")]
        parts = [part for part in found if split == "all" or PARTS[split] == part]
        pixels = {part: self._images(path, part) for part in parts}
        labels = {part: self._read_labels(path, part, len(pixels[part])) for part in parts}
        self._pixels = np.concatenate(list(pixels.values()))  # (N, H, W)
        self._keys = [f"{part}[{i}]" for part in parts for i in range(len(pixels[part]))]
        self.places = range(len(self._keys))
        self.labels = [label for part in parts for label in labels[part]]
        self.class_names = names_for(self.labels, read_class_names(path), where=str(path))

    @staticmethod
    def _images(path: Path, part: str) -> np.ndarray:
        file = _find(path, part, "images-idx3")
        assert file is not None, f"no images of {part}"
        pixels = read_idx(file)
        if pixels.ndim != 3:
            raise InputError(f"{file} has {pixels.ndim} dimensions; grey images have 3 (N, H, W)")
        return pixels

    @staticmethod
    def _read_labels(path: Path, part: str, count: int) -> list[int | None]:
        file = _find(path, part, "labels-idx1")
        if file is None:
            return [None] * count
        labels = read_idx(file)
        if labels.shape != (count,):
            raise InputError(
                f"{file} holds {labels.size} labels for {count} images; fetch both anew"
            )
        return [int(label) for label in labels]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether either file of images lies in ``path``."""
        return any(_find(path, part, "images-idx3") for part in PARTS.values())

    @classmethod
    def official_split(cls, path: Path) -> str:
        """The rule of the data set's own split; empty when one file is missing."""
        both = all(_find(path, part, "images-idx3") for part in PARTS.values())
        return "official split by file name: train-* and t10k-*" if both else ""

    def key(self, row: int) -> str:
        """File and row, as in ``train[17]``."""
        return self._keys[self.places[row]]

    def image(self, row: int) -> Image.Image:
        """A grey image."""
        return Image.fromarray(self._pixels[self.places[row]])
