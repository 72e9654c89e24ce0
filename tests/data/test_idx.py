import gzip

import numpy as np
import pytest
from tiny_data import write_idx

from unmask.data.idx import IdxImages, read_idx
from unmask.errors import InputError

TRAIN = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
TEST = 100 + np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def write_all(root, end=""):
    write_idx(root / f"train-images-idx3-ubyte{end}", TRAIN)
    write_idx(root / f"train-labels-idx1-ubyte{end}", np.array([0, 1, 2, 1, 0]))
    write_idx(root / f"t10k-images-idx3-ubyte{end}", TEST)
    write_idx(root / f"t10k-labels-idx1-ubyte{end}", np.array([1, 0]))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_rows_labels_and_sides(tmp_path, end):
    write_all(tmp_path, end)
    train, val, both = (IdxImages(tmp_path, side) for side in ("train", "val", "all"))
    assert (len(train), len(val), len(both)) == (5, 2, 7)
    assert (np.asarray(train.image(3)) == TRAIN[3]).all()
    assert (np.asarray(both.image(6)) == TEST[1]).all()
    assert (both.key(6), both.label(6)) == ("t10k[1]", 0)
    assert train.class_names == ("0", "1", "2")
    assert "t10k" in IdxImages.official_split(tmp_path)


def test_names_beside_the_files(tmp_path):
    write_all(tmp_path)
    (tmp_path / "classes.json").write_text('["x", "y", "z"]')
    assert IdxImages(tmp_path, "val").class_names == ("x", "y", "z")


def test_dotted_names_of_other_downloads(tmp_path):
    write_idx(tmp_path / "train-images.idx3-ubyte", TRAIN)
    images = IdxImages(tmp_path, "all")
    assert IdxImages.recognises(tmp_path)
    assert images.label(0) is None
    assert not IdxImages.official_split(tmp_path)


def test_damaged_files(tmp_path):
    file = tmp_path / "train-images-idx3-ubyte"
    write_idx(file, TRAIN)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="59 bytes of data, its header says 60"):
        read_idx(file)
    file.write_bytes(b"<html>")
    with pytest.raises(InputError, match="not an IDX file"):
        read_idx(file)
    zipped = tmp_path / "x.gz"
    zipped.write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(InputError, match=r"x\.gz cannot be read"):
        read_idx(zipped)


def test_counts_that_differ(tmp_path):
    write_all(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([0, 1]))
    with pytest.raises(InputError, match="2 labels for 5 images"):
        IdxImages(tmp_path, "train")


def test_colour_is_not_what_these_files_hold(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", TRAIN[..., None])
    with pytest.raises(InputError, match="4 dimensions"):
        IdxImages(tmp_path, "all")
