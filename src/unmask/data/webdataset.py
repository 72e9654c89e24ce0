"""WebDataset shards: tar files of KEY.png beside KEY.cls or KEY.json, read at random."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unmask.data.classes import names_for, read_class_names
from unmask.data.decoding import decode_image, is_image_name
from unmask.data.split import Split, split_files
from unmask.errors import InputError


class Member(NamedTuple):
    """Where the bytes of one image lie."""

    shard: int
    key: str
    start: int
    size: int
    label: int | None


def tar_files(path: Path) -> list[Path]:
    """The shards of a data set: ``path`` itself, or the tars in the folder ``path``, sorted."""
    return [path] if path.suffix == ".tar" and path.is_file() else sorted(path.glob("*.tar"))


def _read_label(ending: str, content: bytes, where: str) -> int | None:
    try:
        if ending == "cls":
            return int(content)
        record = json.loads(content)
        found = record.get("label") if isinstance(record, dict) else None
        return None if found is None else int(found)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} holds no class number ({error}); write one as text") from error


def index_tar(file: Path, shard: int) -> list[Member]:
    """Offsets and labels of the images of one tar, by a single pass over its headers.

    Args:
        file: an uncompressed tar.
        shard: the number that the members carry.

    Returns:
        In the order of the file.

    Raises:
        InputError: damaged or compressed tar, or a label that is no number.
    """
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int | None] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if is_image_name(name):
                    images[folder + slash + stem] = member
                elif ending in ("cls", "json") and stem:
                    opened = tar.extractfile(member)
                    assert opened is not None, "a plain file of a tar opens"
                    label = _read_label(ending, opened.read(), f"{file}: {member.name}")
                    if label is not None:
                        labels[folder + slash + stem] = label
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{file} cannot be read as an uncompressed tar ({error})") from error
    return [
        Member(shard, member.name, member.offset_data, member.size, labels.get(key))
        for key, member in images.items()
    ]


class TarImages:
    """Images of WebDataset shards.

    Args:
        path: a tar, or a folder of tars; ``classes.json`` in the folder names the classes.
        split: ``train-*.tar`` or ``val-*.tar`` where both exist.

    Raises:
        InputError: a damaged shard, or labels that are incomplete or without a name.
    """

    kind = "WebDataset shards (*.tar)"

    def __init__(self, path: Path, split: Split) -> None:
        files = tar_files(path)
        official = split_files(files)
        self._files = official.files(split) if official else files
        self._members = [
            member for shard, file in enumerate(self._files) for member in index_tar(file, shard)
        ]
        self._maps: dict[int, np.memmap] = {}
        folder = path if path.is_dir() else path.parent
        labels = [member.label for member in self._members]
        self.class_names = names_for(labels, read_class_names(folder), where=str(path))

    def __getstate__(self) -> dict[str, object]:
        """Without the open maps: another process makes its own."""
        return {**self.__dict__, "_maps": {}}

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether ``path`` is a tar or a folder that holds one."""
        return bool(tar_files(path))

    @staticmethod
    def official_split(path: Path) -> str:
        """The rule of the data set's own split; empty when it has none."""
        official = split_files(tar_files(path))
        return official.rule if official else ""

    def __len__(self) -> int:
        """Images of the chosen side."""
        return len(self._members)

    def key(self, row: int) -> str:
        """Shard and member, as in ``train-000000.tar/cat.png``."""
        member = self._members[row]
        return f"{self._files[member.shard].name}/{member.key}"

    def label(self, row: int) -> int | None:
        """The class, None for shards without labels."""
        return self._members[row].label

    def image(self, row: int) -> Image.Image:
        """The decoded member.

        Raises:
            UnreadableImageError: its bytes are damaged.
        """
        member = self._members[row]
        if member.shard not in self._maps:
            self._maps[member.shard] = np.memmap(self._files[member.shard], np.uint8, "r")
        content = self._maps[member.shard][member.start : member.start + member.size]
        return decode_image(content.tobytes(), self.key(row))
