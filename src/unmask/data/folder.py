"""Images in folders: one folder a class, or a flat folder without classes."""

from __future__ import annotations

from pathlib import Path

from unmask.data.classes import folder_classes
from unmask.data.decoding import EXTENSIONS, UnreadableImageError
from unmask.data.devkit import find_truth, truth_labels
from unmask.data.folder_layout import Part, class_of, layout_of, split_folders
from unmask.data.reader import Reader, file_stamp
from unmask.data.split import Split
from unmask.data.walk import Walk
from unmask.errors import InputError


class FolderImages(Reader[str]):
    """Image files below a folder, sorted by path; a class is the rank of its folder's name.

    Args:
        path: the folder. ``train`` and ``val`` inside it are its split, by any of their usual
            names; ``train`` alone is the data set. A flat ``val`` beside class folders is
            unlabelled, unless ImageNet's development kit labels it. ``classes.json`` beside the
            class folders names or orders them.
        split: which side, where there is a split.

    Raises:
        InputError: images beside class folders, a single class folder, folders that look like parts
            of a data set under other names, or labelled and unlabelled images together.
    """

    kind = f"image files ({' '.join(EXTENSIONS)}), flat or one folder a class"

    def __init__(self, path: Path, split: Split) -> None:
        self.path = path
        parts, notes = layout_of(path)
        self.notes = notes
        self.total = sum(len(part.files) for part in parts.values())
        train = next(iter(parts.values()))
        classes = sorted({name for part in parts.values() for name in part.classes})
        beside = path if (path / "classes.json").exists() else path / train.folder
        names, ranks = folder_classes(beside, classes) if classes else ((), {})
        self.places, self.labels = [], []
        for side, part in parts.items():
            if split in (side, "all"):
                places, labels = self._labelled(part, ranks)
                self.places += places
                self.labels += labels
        bare = self.labels.count(None)
        if 0 < bare < len(self.labels):
            raise InputError(
                f"{bare} of {len(self.labels)} images of {path} lie in no class folder; use one "
                "side of the split, or sort them"
            )
        self.class_names = names if len(self.labels) > bare else ()

    def _labelled(self, part: Part, ranks: dict[str, int]) -> tuple[list[str], list[int | None]]:
        """Places and labels of a part; of a flat one beside classes, by the kit if it is there."""
        folders = [class_of(file) for file in part.files]
        truth = find_truth(self.path, self.path / part.folder)
        if not ranks or truth is None or part.classes:
            return part.places, [None if name is None else ranks[name] for name in folders]
        labels = truth_labels(truth, part.places, ranks)
        known = [i for i, label in enumerate(labels) if label is not None]
        if strange := len(labels) - len(known):
            self.notes = [
                *self.notes,
                f"left out of {self.path / part.folder}: {strange:,} images of classes that have "
                "no folder",
            ]
        return [part.places[i] for i in known], [labels[i] for i in known]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether an image file lies anywhere below ``path``."""
        return path.is_dir() and any(Walk(path).pictures())

    @classmethod
    def official_split(cls, path: Path) -> str:
        """The rule of the data set's own split; empty when it has none."""
        names = split_folders(path).values()
        return f"official split by folder: {' and '.join(names)}" if names else ""

    def key(self, row: int) -> str:
        """Path relative to the folder, with forward slashes."""
        return self.places[row]

    def content(self, row: int) -> bytes:
        """The file.

        Raises:
            UnreadableImageError: gone since the folder was listed, or not to be read.
        """
        key = self.key(row)
        try:
            return (self.path / key).read_bytes()
        except OSError as error:
            raise UnreadableImageError(key, error.strerror or str(error)) from error

    def stamp(self, row: int) -> tuple[int, ...]:
        """Bytes and time of the file."""
        return file_stamp(self.path / self.key(row))
