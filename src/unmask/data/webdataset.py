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
from unmask.data.reader import ShardReader
from unmask.data.split import Split
from unmask.errors import InputError


class Member(NamedTuple):
    """Where the bytes of one image lie."""

    shard: int
    key: str
    start: int
    size: int
    label: int | None


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


class TarImages(ShardReader[Member]):
    """Images of WebDataset shards.

    Args:
        path: a tar, or a folder of tars; ``classes.json`` in the folder names the classes.
        split: ``train-*.tar`` or ``val-*.tar`` where both exist.

    Raises:
        InputError: a damaged shard, or labels that are incomplete or without a name.
    """

    kind = "WebDataset shards (*.tar)"

    def __init__(self, path: Path, split: Split) -> None:
        super().__init__(path, split)
        self.places = [
            member for shard, file in enumerate(self.files) for member in index_tar(file, shard)
        ]
        self.labels = [member.label for member in self.places]
        self._maps: dict[int, np.memmap] = {}
        folder = path if path.is_dir() else path.parent
        self.class_names = names_for(self.labels, read_class_names(folder), where=str(path))

    def __getstate__(self) -> dict[str, object]:
        """Without the open maps: another process makes its own."""
        return {**self.__dict__, "_maps": {}}

    @staticmethod
    def find(path: Path) -> list[Path]:
        """``path`` itself, or the tars in the folder ``path``, sorted."""
        return [path] if path.suffix == ".tar" and path.is_file() else sorted(path.glob("*.tar"))

    def key(self, row: int) -> str:
        """Shard and member, as in ``train-000000.tar/cat.png``."""
        member = self.places[row]
        return f"{self.files[member.shard].name}/{member.key}"

    def image(self, row: int) -> Image.Image:
        """The decoded member.

        Raises:
            UnreadableImageError: its bytes are damaged.
        """
        member = self.places[row]
        if member.shard not in self._maps:
            self._maps[member.shard] = np.memmap(self.files[member.shard], np.uint8, "r")
        content = self._maps[member.shard][member.start : member.start + member.size]
        return decode_image(content.tobytes(), self.key(row))
