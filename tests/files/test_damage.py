from __future__ import annotations

import contextlib
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.files.damage import DAMAGE, reason


def whole(kind: str) -> bytes:
    file, pixels = io.BytesIO(), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    if kind in ("PNG", "TIFF", "WEBP", "BMP", "GIF"):
        Image.fromarray(pixels).save(file, kind)
    elif kind == "npy":
        np.save(file, pixels)
    elif kind == "npz":
        np.savez_compressed(file, pixels)
    elif kind == "pt":
        torch.save({"a": torch.ones(3)}, file)
    else:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def read(kind: str, content: bytes) -> None:
    file = io.BytesIO(content)
    if kind in ("PNG", "TIFF", "WEBP", "BMP", "GIF"):
        Image.open(file).convert("RGB")
    elif kind in ("npy", "npz"):
        found = np.load(file, allow_pickle=False)
        if kind == "npz":
            dict(found)
    elif kind == "pt":
        torch.load(file, weights_only=True)
    elif kind == "tar":
        with tarfile.open(fileobj=file) as tar:
            tar.getmembers()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF", "npy", "npz", "pt", "tar"])
def test_what_readers_raise_on_damaged_files_is_in_the_list(kind: str) -> None:
    content, stream = whole(kind), np.random.default_rng(0)
    for trial in range(150):
        damaged = bytearray(content)
        for place in stream.integers(0, len(content), 1 + trial % 6):
            damaged[place] = stream.integers(256)
        if trial % 3 == 0:
            damaged = damaged[: stream.integers(len(content))]
        # Anything else escapes and fails; claims that are too large are told apart.
        with contextlib.suppress(*DAMAGE, MemoryError, Image.DecompressionBombError):
            read(kind, bytes(damaged))


def test_a_reason_is_one_line() -> None:
    assert reason(ValueError("\n first \nsecond")) == "first"
    assert reason(zipfile.BadZipFile()) == "BadZipFile"
