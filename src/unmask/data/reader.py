"""Images at random access, and what all kinds of image files share in giving them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from PIL import Image

from unmask.data.classes import Found, JoinedClasses, join_classes, read_class_names
from unmask.data.decoding import decode_image
from unmask.data.split import Split, file_rule, split_files
from unmask.files.digests import file_stamp
from unmask.text import some

Place = TypeVar("Place")


class Listed(Protocol):
    """A data set without its images. Rows count from 0."""

    name: str
    """Name of the data set and its side, for reports."""
    class_names: tuple[str, ...]
    """Names of the classes in label order; empty if unlabelled."""
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


class Reader(ImageSource, ABC, Generic[Place]):
    """One kind of image files: a source once ``open_source`` has set its name and rule.

    A kind's ``__init__`` opens one side of the official split, or everything where there is none,
    and sets the names of the classes, and of each image the place and the label.
    """

    kind: ClassVar[str]  # what a person would call such files, for messages
    name: str = ""
    split_rule: str = ""
    places: Sequence[Place]
    labels: Sequence[int | None]
    notes: list[str]
    total: int
    """Images of all sides."""

    @abstractmethod
    def __init__(self, path: Path, split: Split) -> None: ...

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` is of this kind."""

    @classmethod
    @abstractmethod
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

    def set_labels(self, labels: list[int | None], names: tuple[str, ...]) -> None:
        """The labels of this side, and their names unless it has none."""
        self.labels = labels
        self.class_names = names if any(label is not None for label in labels) else ()


class ShardReader(Reader[Place]):
    """Images of a few large files, whose names tell the official split if there is one.

    Both sides are indexed whichever is asked for, so that the classes never depend on the side.
    """

    files: list[Path]
    """Files of all sides, one side after the other; places count them."""
    stamps: list[tuple[int, int]]
    """Stamps of the files, as they were when they were indexed."""
    listed: tuple[str, ...]
    """Names of the classes in a file beside the shards; empty without one."""

    def __init__(self, path: Path, split: Split) -> None:
        found = self.find(path)
        self.path, self.split, sides = path, split, split_files(found) or {"all": found}
        self.files = [file for side in sides.values() for file in side]
        self.stamps = [file_stamp(file) for file in self.files]
        numbers = iter(range(len(self.files)))
        self._sides = {side: [*islice(numbers, len(files))] for side, files in sides.items()}
        folder = path if path.is_dir() else path.parent
        self.listed = read_class_names(folder) or read_class_names(self.files[0].parent)
        self.notes = []
        if others := set(found) - set(self.files):
            names = some(file.name for file in others)
            self.notes = [f"of neither side, and not used: {len(others)} files ({names})"]

    def take(
        self,
        places: Sequence[Sequence[Place]],
        labels: Sequence[Sequence[Found]],
        names: Sequence[str],
    ) -> JoinedClasses:
        """Keep the chosen sides of what was found in each file.

        Args:
            places: of the images of each file.
            labels: of the same images.
            names: of the classes, in label order; empty makes names of the labels.
        """
        parts = [[k for n in side for k in labels[n]] for side in self._sides.values()]
        classes = join_classes(parts, names, where=str(self.path))
        known = dict(zip(self._sides, classes.labels, strict=True))
        chosen = [side for side in self._sides if self.split in (side, "all") or side == "all"]
        self.total = sum(map(len, places))
        self.places = [p for side in chosen for n in self._sides[side] for p in places[n]]
        self.set_labels([k for side in chosen for k in known[side]], classes.names)
        self.notes += classes.notes
        return classes

    @staticmethod
    @abstractmethod
    def find(path: Path) -> list[Path]:
        """The files of a data set, sorted."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether ``path`` is such a file or a folder that holds one."""
        return bool(cls.find(path))

    @classmethod
    def official_split(cls, path: Path) -> str:
        """A sentence that states the data set's own split; empty when it has none."""
        return file_rule(split_files(cls.find(path)))
