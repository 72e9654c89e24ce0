"""Images at random access, and what all kinds of image files share in giving them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from PIL import Image

from unmask.data.classes import JoinedClasses
from unmask.data.decoding import decode_image
from unmask.data.split import Split, split_files

Place = TypeVar("Place")
Found = TypeVar("Found")


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


class EncodedImages(Listed, Protocol):
    """Images as their files hold them."""

    def content(self, row: int) -> bytes:
        """The encoded image, as its file holds it; raises ``UnreadableImageError`` when it is gone.

        Two images are the same when these bytes are.
        """

    def stamp(self, row: int) -> tuple[int, ...]:
        """Numbers that change when an image's file does: bytes, mtime in ns, the place in it.

        No file is opened. A file that is gone gives zeros.
        """


class ImageSource(EncodedImages, Protocol):
    """Images with their labels, at random access."""

    def image(self, row: int) -> Image.Image:
        """The decoded image; raises ``UnreadableImageError`` when it is damaged.

        It is what :func:`~unmask.data.decoding.decode_image` makes of the content.
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
    total: int
    """Images of all sides."""

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

    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            UnreadableImageError: it is damaged, missing, or gone since it was listed.
        """
        return decode_image(self.content(row), self.key(row))

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all other rows."""
        self.places = [self.places[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]


class ShardReader(Reader[Place], Protocol[Place]):
    """Images of a few large files, whose names tell the official split if there is one.

    Both sides are indexed whichever is asked for, so that the classes never depend on the side.
    """

    files: list[Path]
    """Of all sides, one side after the other; places count them."""
    stamps: list[tuple[int, int]]
    """Of the files, as they were when they were indexed."""
    _sides: list[list[Path]]
    _chosen: list[int]  # numbers of the sides that were asked for

    def __init__(self, path: Path, split: Split) -> None:
        found = self.find(path)
        official = split_files(found)
        self._sides = [official.train, official.val] if official else [found]
        self._chosen = [n for n, side in enumerate(("train", "val")) if split in (side, "all")]
        if not official:
            self._chosen = [0]
        self.files = [file for side in self._sides for file in side]
        self.notes = []
        if others := sorted(set(found) - set(self.files)):
            names = ", ".join(file.name for file in others[:3])
            self.notes = [f"of neither side, and not used: {len(others)} files ({names})"]

    def by_side(self, found: Sequence[Found]) -> list[Sequence[Found]]:
        """What was found in each file, in the order of the files, side by side."""
        ends = [0, *accumulate(len(side) for side in self._sides)]
        return [found[start:end] for start, end in pairwise(ends)]

    def take(self, places: Sequence[Place], classes: JoinedClasses) -> None:
        """Keep the chosen sides of what was found.

        Args:
            places: of all images, in the order of the files.
            classes: of the same images, by side.
        """
        ends = [0, *accumulate(len(labels) for labels in classes.labels)]
        self.total = len(places)
        self.places = [p for n in self._chosen for p in places[ends[n] : ends[n + 1]]]
        self.labels = [label for n in self._chosen for label in classes.labels[n]]
        labelled = any(label is not None for label in self.labels)
        self.class_names = classes.names if labelled else ()
        self.notes = [*self.notes, *classes.notes]

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
