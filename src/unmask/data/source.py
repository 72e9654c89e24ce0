"""A set of images, whatever files it lies in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from unmask.data.folder import FolderImages
from unmask.data.idx import IdxImages
from unmask.data.parquet import ParquetImages
from unmask.data.split import Split, check_split, hash_rule, hashed_rows
from unmask.data.webdataset import TarImages
from unmask.errors import InputError


class Reader(Protocol):
    """What a kind of files must offer; rows count from 0."""

    kind: str
    """What a person would call such files, for messages."""
    class_names: tuple[str, ...]
    """In label order; empty if unlabelled."""

    def __init__(self, path: Path, split: Split) -> None:
        """Open one side of the official split, or everything where there is none."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether ``path`` is of this kind."""

    @staticmethod
    def official_split(path: Path) -> str:
        """A sentence that states the official split; empty when there is none."""

    def __len__(self) -> int:
        """Number of images."""

    def key(self, row: int) -> str:
        """Name of an image, relative to the data set."""

    def label(self, row: int) -> int | None:
        """Class of an image."""

    def image(self, row: int) -> Image.Image:
        """The decoded image."""


class Listed(Protocol):
    """A data set without its images. Rows count from 0."""

    name: str
    """Of the data set and its side, for reports."""
    class_names: tuple[str, ...]
    """In label order; empty if unlabelled."""
    split_rule: str
    """A sentence that states how train and val were told apart."""

    def __len__(self) -> int:
        """Number of images."""

    def label(self, row: int) -> int | None:
        """Class of an image, None if unlabelled."""

    def key(self, row: int) -> str:
        """File name, tar member or table row, for messages and hashes."""


class ImageSource(Listed, Protocol):
    """Images with their labels, at random access."""

    def image(self, row: int) -> Image.Image:
        """The decoded image; raises ``UnreadableImageError`` when it is damaged."""


KINDS: tuple[type[Reader], ...] = (IdxImages, TarImages, ParquetImages, FolderImages)


class SplitImages:
    """One side of a data set: an :class:`ImageSource`.

    Args:
        reader: the images.
        rows: those that belong to this side.
        name: of the data set and its side.
        split_rule: how the sides were told apart.
    """

    def __init__(self, reader: Reader, rows: Sequence[int], *, name: str, split_rule: str) -> None:
        self.name = name
        self.split_rule = split_rule
        self.class_names = reader.class_names
        self._reader = reader
        self._rows = rows

    def __len__(self) -> int:
        """Images of this side."""
        return len(self._rows)

    def label(self, row: int) -> int | None:
        """Class of an image, None if unlabelled."""
        return self._reader.label(self._rows[row])

    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            UnreadableImageError: it is damaged.
        """
        return self._reader.image(self._rows[row])

    def key(self, row: int) -> str:
        """File name, tar member or table row, relative to the data set."""
        return self._reader.key(self._rows[row])


def _kind_of(path: Path) -> type[Reader]:
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of images, shards or tables")
    for kind in KINDS:
        if kind.recognises(path):
            return kind
    if (path / "cache.json").exists():
        raise InputError(f"{path} is a latent cache, not a set of images; train from it directly")
    known = "; ".join(kind.kind for kind in KINDS)
    if path.is_file():
        raise InputError(
            f"{path} is a file of unknown kind; known are folders or files of: {known}"
        )
    raise InputError(f"{path} holds no images of a known kind: {known}")


def open_source(path: str | Path, *, split: Split = "train", val_share: float = 0.1) -> ImageSource:
    """Open the images at ``path``, recognising their kind from what lies there.

    Args:
        path: a folder of images or of class folders, WebDataset tars, IDX files or Parquet files.
        split: a side of the data set's own split, where it has one; otherwise keys decide by hash.
        val_share: expected share of val where there is no official split, in (0, 1).

    Returns:
        The images of that side; ``split_rule`` says which rule was used.

    Raises:
        InputError: nothing there, nothing of a known kind, damaged files, or an empty side.
    """
    check_split(split, val_share)
    path = Path(path).expanduser()
    kind = _kind_of(path)
    official = kind.official_split(path)
    reader = kind(path, split if official else "all")
    rows: Sequence[int] = range(len(reader))
    if not official:
        rows = hashed_rows(map(reader.key, rows), split, val_share)
    rule = official or hash_rule(val_share)
    if not rows:
        raise InputError(
            f"the {split} side of {path} is empty ({rule}; {len(reader)} images in all); "
            "use split='all' or another val_share"
        )
    return SplitImages(reader, rows, name=f"{path.resolve().name} ({split})", split_rule=rule)
