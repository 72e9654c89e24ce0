"""Images in folders: one folder a class, or a flat folder without classes; their split, and what is
not read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unmask.data.classes import class_name, folder_classes
from unmask.data.decoding import EXTENSIONS, reading
from unmask.data.devkit import find_truth, truth_labels
from unmask.data.reader import Reader
from unmask.data.split import TRAIN_NAMES, VAL_NAMES, Split, split_folder
from unmask.data.walk import Walk
from unmask.errors import InputError
from unmask.files.damage import reason
from unmask.files.digests import file_stamp
from unmask.text import some


@dataclass(frozen=True)
class Part:
    """One side of a split, or all of a data set without one.

    Args:
        folder: Folder below the data set; empty for the data set itself.
        files: Sorted paths below that folder, with forward slashes.
    """

    folder: str
    files: list[str]

    @cached_property
    def places(self) -> list[str]:
        """Paths below the data set."""
        return [f"{self.folder}/{file}" if self.folder else file for file in self.files]

    @cached_property
    def classes(self) -> list[str]:
        """Sorted names of the class folders; none in a flat part."""
        folders = {file.partition("/")[0] for file in self.files if "/" in file}
        return sorted(set(map(class_name, folders)))

    @cached_property
    def loose(self) -> list[str]:
        """Images in no class folder."""
        return [file for file in self.files if "/" not in file]


def class_of(file: str) -> str | None:
    """Name of a file's class folder, None for a loose file."""
    folder, slash, _ = file.partition("/")
    return class_name(folder) if slash else None


def split_folders(path: Path) -> dict[Split, str]:
    """The folders of train and val, by any of their usual names; none unless both are there."""
    return _sides(_top(path), path)


def _top(path: Path) -> Walk:
    top = Walk(path)
    try:
        top.here()
    except OSError as error:
        raise InputError(f"{path} cannot be listed ({reason(error)})") from error
    return top


def _sides(top: Walk, path: Path) -> dict[Split, str]:
    train = split_folder(top.tops, TRAIN_NAMES, path)
    val = split_folder(top.tops, VAL_NAMES, path)
    if train is None or val is None:
        return {}
    if (path / train).samefile(path / val):
        raise InputError(
            f"{path}: {train} and {val} are one folder; hold other images out in {val}"
        )
    return {"train": train, "val": val}


def layout_of(path: Path) -> tuple[dict[Split, Part], list[str]]:
    """List a data set.

    Returns:
        The parts, train and val if the data set has that split, else "all"; and a sentence a folder
        on what is there and is not read.

    Raises:
        InputError: it cannot be listed, or its folders are neither classes nor a split.
    """
    top = _top(path)
    sides = _sides(top, path)
    if sides:
        beside = sorted({*top.tops, *top.files} - {*sides.values()})
        left = [f"{len(beside):,} beside {' and '.join(sides.values())}: {some(beside)}"]
        notes = _left_out(path, [*left * bool(beside), *top.left_out()])
    else:
        sides, notes = {"all": ""}, []
    parts = dict[Split, Part]()
    for side, folder in sides.items():
        walk = Walk(path / folder)
        parts[side] = Part(folder, sorted(walk.pictures()))
        notes += _left_out(path / folder, [*_empty(walk, parts[side]), *walk.left_out()])
    if "all" in parts:
        parts["all"] = _below_train(parts["all"])
    for part in parts.values():
        _check_part(part, path / part.folder)
    _check_classes(list(parts.values()), path)
    return parts, notes


def _empty(walk: Walk, part: Part) -> list[str]:
    """A clause on folders beside class folders in which no image was found."""
    known = set(part.classes)
    empty = [name for name in walk.tops if class_name(name) not in known]
    return [f"{len(empty):,} without images: {some(empty)}"] if part.classes and empty else []


def _left_out(path: Path, clauses: list[str]) -> list[str]:
    return [f"left out of {path}: {'; '.join(clauses)}"] if clauses else []


def _below_train(part: Part) -> Part:
    """A data set that is a training folder and nothing else, as what lies in that folder."""
    first = {file.partition("/")[0] for file in part.files}
    if len(first) != 1 or not {name.lower() for name in first} & {*TRAIN_NAMES}:
        return part
    (train,) = first
    return Part(train, [file.removeprefix(f"{train}/") for file in part.files])


def _check_part(part: Part, where: Path) -> None:
    """Refuse images beside class folders, and parts of a data set in the place of classes."""
    loose = part.loose
    if loose and part.classes:
        raise InputError(
            f"{where}: {len(loose)} images such as {loose[0]} lie beside class folders; "
            "move them into a class folder"
        )
    inside: dict[str, set[str]] = {}
    for file in part.files:
        folder, _, rest = file.partition("/")
        inside.setdefault(folder, set()).add(rest.partition("/")[0] if "/" in rest else "")
    same = {frozenset(folders) for folders in inside.values()}
    shared = next(iter(same), frozenset[str]())
    if len(inside) > 1 and len(same) == 1 and len(shared) > 1 and "" not in shared:
        raise InputError(
            f"{where}: the folders {some(inside)} all hold {some(shared)}, as the parts of a data "
            "set do; name two of them train and val, or give one of them"
        )


def _check_classes(parts: list[Part], path: Path) -> None:
    """Refuse a lone class, and a flat train beside a val with classes."""
    classes = {name for part in parts for name in part.classes}
    train = parts[0]
    if classes and train.loose:
        raise InputError(
            f"{path / train.folder} has no class folders, {path / parts[-1].folder} has; "
            "give both sides class folders, or neither"
        )
    if len(classes) == 1:
        (only,) = classes
        below = {part.folder: [file.partition("/")[2] for file in part.files] for part in parts}
        folder, files = next((folder, files) for folder, files in below.items() if files)
        further = Part("", files).classes
        use = f"which has the classes {some(further)}" if further else "for unlabelled images"
        raise InputError(
            f"{path} holds one class folder only, {only!r}; give {path / folder / only} {use}, "
            "or add the other classes"
        )


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
        parts, self.notes = layout_of(path)
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
        with reading(self.key(row)):
            return (self.path / self.key(row)).read_bytes()

    def stamp(self, row: int) -> tuple[int, ...]:
        """Bytes and time of the file."""
        return file_stamp(self.path / self.key(row))
