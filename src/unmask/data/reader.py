"""Images at random access, and what all kinds of image files share in giving them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from PIL import Image

from unmask.data.split import Split, split_files

Place = TypeVar("Place")


class Listed(Protocol):
    """A data set without its images. Rows count from 0."""

    name: str
    """Of the data set and its side, for reports."""
    class_names: tuple[str, ...]
    """In label order; empty if unlabelled."""
    split_rule: str
    """A sentence that states how train and val were told apart."""
    notes: Sequence[str] = ()
    """Sentences on what lies there and is not used, or is used in a way worth knowing."""

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

    def content(self, row: int) -> bytes:
        """The encoded image, as its file holds it; raises ``UnreadableImageError`` when it is gone.

        Two images are the same when these bytes are.
        """

    def stamp(self, row: int) -> tuple[int, ...]:
        """Numbers that change when an image's file does: bytes, mtime in ns, the place in it.

        No file is opened. A file that is gone gives zeros.
        """


def file_stamp(file: Path) -> tuple[int, int]:
    """Bytes and time of the last change in nanoseconds of a file; zeros when it is gone."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


class Reader(ImageSource, Protocol[Place]):
    """One kind of image files: a source once ``open_source`` has set its name and rule.

    A kind's ``__init__`` opens one side of the official split, or everything where there is none,
    and sets the names of the classes, and of each image the place and the label.
    """

    kind: ClassVar[str]  # what a person would call such files, for messages
    places: Sequence[Place]
    labels: Sequence[int | None]

    def __init__(self, path: Path, split: Split) -> None: ...

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` is of this kind."""

    @classmethod
    def official_split(cls, path: Path) -> str:
        """A sentence that states the data set's own split; empty when it has none."""

    def __len__(self) -> int:
        """Images of this side."""
        return len(self.places)

    def label(self, row: int) -> int | None:
        """Class of an image, None if unlabelled."""
        return self.labels[row]

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        self.places = [self.places[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]


class ShardReader(Reader[Place], Protocol[Place]):
    """Images of a few large files, whose names tell the official split if there is one."""

    files: list[Path]

    def __init__(self, path: Path, split: Split) -> None:
        found = self.find(path)
        official = split_files(found)
        self.files = official.files(split) if official else found

    @staticmethod
    def find(path: Path) -> list[Path]:
        """The files of a data set, sorted."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` is such a file or a folder that holds one."""
        return bool(cls.find(path))

    @classmethod
    def official_split(cls, path: Path) -> str:
        """The rule of the data set's own split; empty when it has none."""
        official = split_files(cls.find(path))
        return official.rule if official else ""
