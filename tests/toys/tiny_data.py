"""Small data sets of every kind, and a tokenizer without weights."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmask.data.decoding import UnreadableImageError, decode_image
from unmask.files.verified import LIST
from unmask.networks.sizes import Space
from unmask.tokenizers.tokenizer import Tokenizer


def pixels(value: int, size: int = 8) -> np.ndarray:
    """A left-right asymmetric RGB image that ``value`` identifies."""
    array = np.zeros((size, size, 3), np.uint8)
    array[:, : size // 2] = value
    array[..., 2] = 255 - value
    return array


def png(value: int, size: int = 8) -> bytes:
    """The image of :func:`pixels` as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(value, size)).save(buffer, "PNG")
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a cache less the list of their times."""
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != LIST}


def write_files(root: Path, names: list[str]) -> Path:
    """One image a name; image i shows the value i."""
    for i, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return root


def write_tar(file: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar of the members in their order."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_idx(file: Path, array: np.ndarray) -> None:
    """An IDX file of unsigned bytes; gzip by the name's end."""
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


class ListSource:
    """An image source of given pixel values; None is an unreadable image."""

    split_rule = "all of a list"
    notes: Sequence[str] = ()
    time = 0  # of the last change

    def __init__(self, values: Sequence[int | None], labels: Sequence[int] | None = None) -> None:
        self.values = values
        self.labels = labels
        self.name = "list"
        self.class_names = tuple(map(str, range(1 + max(labels)))) if labels else ()

    def __len__(self) -> int:
        return len(self.values)

    def key(self, row: int) -> str:
        return f"item{row}"

    def label(self, row: int) -> int | None:
        return self.labels[row] if self.labels else None

    def content(self, row: int) -> bytes:
        value = self.values[row]
        if value is None:
            raise UnreadableImageError(self.key(row), "broken")
        return png(value)

    def stamp(self, row: int) -> tuple[int, ...]:
        return row, self.time

    def image(self, row: int) -> Image.Image:
        return decode_image(self.content(row), self.key(row))


class PatchTokenizer(Tokenizer):
    """The red byte of each patch's first pixel plus 256 for the left half: no weights needed."""

    space: Space = ("codes", 512)
    stride = 2
    image_channels = 3
    native_range = (0.0, 1.0)
    identity = "patch"

    def __init__(self, identity: str = "patch") -> None:
        self.identity = identity
        self.encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        self.encoded += len(images)
        red = (images[:, 0, ::2, ::2] * 255).round().long()
        red[..., : red.shape[-1] // 2] += 256
        return red.flatten(1)

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        raise NotImplementedError


class MomentTokenizer(PatchTokenizer):
    """Latents of 3 numbers: a pixel of each patch; log variances beyond both ends of the clamp."""

    space: Space = ("channels", 3)
    moment_channels = 6
    scale = 0.5

    def encode(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        self.encoded += len(images)
        return torch.cat([images[:, :, ::2, ::2], 25 - 60 * images[:, :, 1::2, 1::2]], 1)


TOKENIZERS = {"codes": PatchTokenizer, "moments": MomentTokenizer}


def write_shards(root: Path) -> Path:
    """WebDataset shards with an official split, labels as text and names beside them."""
    for part, first in (("train-000000", 0), ("train-000001", 3), ("val-000000", 6)):
        members = []
        for i in range(first, first + 3):
            members += [(f"{i:03d}.png", png(i)), (f"{i:03d}.cls", str(i % 2).encode())]
        write_tar(root / f"{part}.tar", members)
    (root / "classes.json").write_text('["even", "odd"]')
    return root
