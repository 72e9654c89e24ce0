"""What all kinds of image files share: where each image lies, and its label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from PIL import Image

from unmask.data.split import Split, split_files

Place = TypeVar("Place")


class Reader(ABC, Generic[Place]):
    """Images of one kind of files; an ``ImageSource`` once its name and rule are set.

    A kind's ``__init__`` opens one side of the official split, or everything where there is none,
    and sets ``class_names``, ``places`` and ``labels``.
    """

    kind: ClassVar[str]
    """What a person would call such files, for messages."""
    name: str = ""
    """Of the data set and its side, for reports."""
    split_rule: str = ""
    """A sentence that states how train and val were told apart."""
    class_names: tuple[str, ...]
    """In label order; empty if unlabelled."""
    places: Sequence[Place]
    """Where each image lies."""
    labels: Sequence[int | None]
    """Class of each image."""

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

    @abstractmethod
    def key(self, row: int) -> str:
        """Name of an image, relative to the data set: file, tar member or table row."""

    @abstractmethod
    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            UnreadableImageError: it is damaged.
        """

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


class ShardReader(Reader[Place]):
    """Images of a few large files, whose names tell the official split if there is one."""

    def __init__(self, path: Path, split: Split) -> None:
        found = self.find(path)
        official = split_files(found)
        self.files = official.files(split) if official else found

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
        """The rule of the data set's own split; empty when it has none."""
        official = split_files(cls.find(path))
        return official.rule if official else ""
