"""Images in folders: one folder a class, or a flat folder without classes."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from unmask.data.decoding import UnreadableImageError, decode_image, is_image_name
from unmask.data.reader import Reader
from unmask.data.split import VAL_NAMES, Split
from unmask.errors import InputError


def _split_folders(path: Path) -> dict[Split, str]:
    val = next((name for name in VAL_NAMES if (path / name).is_dir()), None)
    return {"train": "train", "val": val} if val and (path / "train").is_dir() else {}


def _list_images(path: Path) -> list[str]:
    found = []
    for folder, subfolders, files in os.walk(path, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inside = Path(folder).relative_to(path).as_posix()
        found += [f"{inside}/{name}".removeprefix("./") for name in files if is_image_name(name)]
    return sorted(found)


def _class_of(file: str) -> str | None:
    folder, slash, _ = file.partition("/")
    return folder if slash else None


def _check_classes(classes: set[str | None], files: list[str], path: Path) -> None:
    loose = [file for file in files if "/" not in file]
    if loose and len(classes) > 1:
        raise InputError(
            f"{path}: {len(loose)} images such as {loose[0]} lie beside class folders; "
            "move them into a class folder"
        )
    if len(classes) == 1 and not loose:
        (only,) = classes
        raise InputError(
            f"{path} holds one class folder only, {only!r}; "
            f"give {path / str(only)} for unlabelled images, or add the other classes"
        )


class FolderImages(Reader[str]):
    """Image files below a folder, sorted by path; a class is the rank of its folder's name.

    Args:
        path: the folder; ``train`` and ``val`` (valid, validation, test) inside it are its split.
        split: which side, where there is a split.

    Raises:
        InputError: images beside class folders, or a single class folder.
    """

    kind = "image files (.png .jpg .jpeg .bmp .tiff .webp), flat or one folder a class"

    def __init__(self, path: Path, split: Split) -> None:
        self.path = path
        parts = _split_folders(path) or {"all": "."}
        listed = {part: _list_images(path / folder) for part, folder in parts.items()}
        every = [file for files in listed.values() for file in files]
        classes = {_class_of(file) for file in every}
        _check_classes(classes, every, path)
        self.class_names = tuple(sorted(name for name in classes if name is not None))
        chosen = [part for part in listed if split in (part, "all")]
        ranks = {name: rank for rank, name in enumerate(self.class_names)}
        self.places = [
            f"{parts[part]}/{file}".removeprefix("./") for part in chosen for file in listed[part]
        ]
        self.labels = [ranks.get(_class_of(file) or "") for part in chosen for file in listed[part]]

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether an image file lies anywhere below ``path``."""
        return any(is_image_name(name) for _, _, files in os.walk(path) for name in files)

    @classmethod
    def official_split(cls, path: Path) -> str:
        """The rule of the data set's own split; empty when it has none."""
        names = _split_folders(path).values()
        return f"official split by folder: {' and '.join(names)}" if names else ""

    def key(self, row: int) -> str:
        """Path relative to the folder, with forward slashes."""
        return self.places[row]

    def image(self, row: int) -> Image.Image:
        """The decoded file.

        Raises:
            UnreadableImageError: damaged, or gone since the folder was listed.
        """
        key = self.key(row)
        try:
            content = (self.path / key).read_bytes()
        except OSError as error:
            raise UnreadableImageError(key, str(error)) from error
        return decode_image(content, key)
