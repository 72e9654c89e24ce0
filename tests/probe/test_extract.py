"""Features of a source as a file: every row in its place, whatever cannot be read."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import forked, status
from PIL import Image
from torch import Tensor

from unmask.data.decoding import UnreadableImageError
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.probe.extract import BATCH, Extraction, write_features


class Numbered:
    """Images whose first pixel tells their row; some cannot be read."""

    name = "numbered"

    def __init__(self, count: int, unreadable: set[int]) -> None:
        self.count, self.unreadable = count, unreadable

    def __len__(self) -> int:
        return self.count

    def image(self, row: int) -> Image.Image:
        if row in self.unreadable:
            raise UnreadableImageError(str(row), "torn")
        return Image.new("RGB", (1, 1), (row // 256, row % 256, 7))

    def label(self, row: int) -> int | None:
        return row % 5 if row % 2 else None


def write(path: Path, source: Numbered) -> tuple[Tensor, Tensor]:
    """Features whose first number is the row."""

    def represent(pixels: Tensor) -> Tensor:
        value = (pixels * 255).round().flatten(1)
        return torch.cat([value[:, :1] * 256 + value[:, 1:2], value], dim=1)

    transform = Transform(size=1, channels=3)
    wanted = Extraction(source, transform, represent, torch.device("cpu"))
    return write_features(wanted, path)


@pytest.mark.parametrize(
    "unreadable",
    [set(), {0}, {3 * BATCH + 6}, set(range(BATCH)), set(range(10, 3 * BATCH)), set(range(1, 199))],
)
def test_every_row_is_in_its_place(tmp_path: Path, unreadable: set[int]) -> None:
    source = Numbered(3 * BATCH + 7, unreadable)
    features, labels = write(tmp_path / "f.npy", source)
    stored = np.load(tmp_path / "f.npy")
    assert stored.dtype == np.float32
    assert np.array_equal(stored, features.numpy(), equal_nan=True)
    assert np.array_equal(np.load(tmp_path / "f.labels.npy"), labels.numpy())
    for row in range(len(source)):
        assert np.isnan(stored[row]).all() == (row in unreadable)
        if row not in unreadable:
            assert stored[row].tolist() == [row, row // 256, row % 256, 7]
            assert labels[row] == (row % 5 if row % 2 else -1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.labels.npy", "f.npy"]


def test_nothing_readable_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_text("old")
    with pytest.raises(InputError, match="none of the 5 images of numbered can be read"):
        write(tmp_path / "f.npy", Numbered(5, set(range(5))))
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"]


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    """By a limit of the process on the size of files, which acts as a full disk does."""
    (tmp_path / "f.npy").write_text("old")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(InputError, match=r"cannot write .*f\.npy: .*; older ones are whole"):
            write(tmp_path / "f.npy", Numbered(1000, set()))

    assert status(forked(limited)) == 0
    assert (tmp_path / "f.npy").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"]
