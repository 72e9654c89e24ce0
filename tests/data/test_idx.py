from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny_data import write_idx

from unmask.data.decoding import decode_image
from unmask.data.idx import IdxImages, read_idx
from unmask.errors import InputError

TRAIN = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
TEST = 100 + np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def write_all(root: Path, end: str = "") -> None:
    write_idx(root / f"train-images-idx3-ubyte{end}", TRAIN)
    write_idx(root / f"train-labels-idx1-ubyte{end}", np.array([0, 1, 2, 1, 0]))
    write_idx(root / f"t10k-images-idx3-ubyte{end}", TEST)
    write_idx(root / f"t10k-labels-idx1-ubyte{end}", np.array([1, 0]))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_rows_labels_and_sides(tmp_path: Path, end: str) -> None:
    write_all(tmp_path, end)
    train, val, both = (IdxImages(tmp_path, side) for side in ("train", "val", "all"))
    assert (len(train), len(val), len(both)) == (5, 2, 7)
    assert (np.asarray(train.image(3)) == TRAIN[3]).all()
    assert (np.asarray(both.image(6)) == TEST[1]).all()
    assert (both.key(6), both.label(6)) == ("t10k[1]", 0)
    assert train.class_names == ("0", "1", "2")
    assert "t10k" in IdxImages.official_split(tmp_path)


def test_names_beside_the_files(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "classes.json").write_text('["x", "y", "z"]')
    assert IdxImages(tmp_path, "val").class_names == ("x", "y", "z")


def test_dotted_names_of_other_downloads(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images.idx3-ubyte", TRAIN)
    images = IdxImages(tmp_path, "all")
    assert IdxImages.recognises(tmp_path)
    assert images.label(0) is None
    assert not IdxImages.official_split(tmp_path)


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    write_idx(file, TRAIN)
    whole = file.read_bytes()
    for content, found in ((whole[:-1], "59"), (whole + b"0", "61")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"{found} bytes of data, its header says 60"):
            read_idx(file)
    file.write_bytes(b"<html>")
    with pytest.raises(InputError, match="not an IDX file"):
        read_idx(file)
    zipped = tmp_path / "x.gz"
    for content in (gzip.compress(whole)[:-12], b"", b"no gzip", gzip.compress(whole) + b"more"):
        zipped.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.gz (cannot be read|is not an IDX file)"):
            read_idx(zipped)
    for content, found in ((whole[:-1], "59"), (whole + b"0", "more than 60")):
        zipped.write_bytes(gzip.compress(content))
        with pytest.raises(InputError, match=f"{found} bytes of data, its header says 60"):
            read_idx(zipped)


def header(*shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    "content",
    [header(2**32 - 1, 28, 28), header(2**32 - 1, 0, 0), header(5, 0, 3), header(*[2] * 255),
     header(1, 2**32 - 1, 2**32 - 1), header(), header(3), header(5, 4, 3)[:-2]],
)  # fmt: skip
def test_headers_that_state_what_no_file_holds(tmp_path: Path, content: bytes, end: str) -> None:
    file = tmp_path / f"train-images-idx3-ubyte{end}"
    file.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(InputError, match="train-images-idx3-ubyte") as caught:
        IdxImages(tmp_path, "all")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1 << 28), 1)  # 256 MiB in one
    file = tmp_path / "x.gz"
    tracemalloc.start()
    for claimed in (header(1, 2, 2), header(1 << 24, 4, 4)):
        file.write_bytes(gzip.compress(claimed) + bomb)
        with pytest.raises(InputError, match=r"more than (4|100 times)"):
            read_idx(file)
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()


@pytest.mark.parametrize("start", ["emnist-letters-", "qmnist-"])
def test_names_of_kindred_data_sets(tmp_path: Path, start: str) -> None:
    write_idx(tmp_path / f"{start}train-images-idx3-ubyte.gz", TRAIN)
    write_idx(tmp_path / f"{start}train-labels-idx1-ubyte.gz", np.array([1, 2, 3, 1, 2]))
    write_idx(tmp_path / f"{start}test-images-idx3-ubyte", TEST)
    write_idx(tmp_path / f"{start}test-labels-idx1-ubyte", np.array([2, 1]))
    train, val = (IdxImages(tmp_path, side) for side in ("train", "val"))
    assert (len(train), val.key(1), val.label(0)) == (5, "test[1]", 2)
    assert train.class_names == val.class_names == ("0", "1", "2", "3")
    assert train.notes == ["1 of the 4 classes have no image"]
    assert "test" in IdxImages.official_split(tmp_path)


def test_one_of_several_data_sets_is_named_by_a_file(tmp_path: Path) -> None:
    for name in ("digits", "letters"):
        write_idx(tmp_path / f"emnist-{name}-train-images-idx3-ubyte", TRAIN)
    with pytest.raises(InputError, match=r"2 data sets .*\(emnist-digits, emnist-letters\)"):
        IdxImages.recognises(tmp_path)
    file = tmp_path / "emnist-letters-train-images-idx3-ubyte"
    assert IdxImages.recognises(file)
    assert len(IdxImages(file, "all")) == 5


def test_content_and_stamp(tmp_path: Path) -> None:
    write_all(tmp_path)
    images = IdxImages(tmp_path, "all")
    assert (np.asarray(decode_image(images.content(6), "it")) == TEST[1]).all()
    assert len({images.stamp(row) for row in range(7)}) == 7
    images.keep([6, 2])
    assert images.content(1).endswith(TRAIN[2].tobytes())
    assert images.stamp(1)[-1] == 2


def test_counts_that_differ(tmp_path: Path) -> None:
    write_all(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1]))
    with pytest.raises(InputError, match="2 labels for 5 images"):
        IdxImages(tmp_path, "train")


def test_colour_is_not_what_these_files_hold(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", TRAIN[..., None])
    with pytest.raises(InputError, match="4 dimensions"):
        IdxImages(tmp_path, "all")


def test_labels_of_one_side_only(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert IdxImages(tmp_path, "train").class_names == ("0", "1", "2")
    assert IdxImages(tmp_path, "val").class_names == ()
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte has no file of labels"):
        IdxImages(tmp_path, "all")
