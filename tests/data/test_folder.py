import os

import numpy as np
import pytest
from tiny_data import pixels, write_files

from unmask.data.decoding import UnreadableImageError
from unmask.data.folder import FolderImages
from unmask.errors import InputError


def test_class_folders(tmp_path):
    write_files(tmp_path, ["b/2.png", "a/deep/1.PNG", "c/x.jpeg", "a/0.bmp", "b/note.txt"])
    (tmp_path / "empty").mkdir()
    images = FolderImages(tmp_path, "all")
    assert images.class_names == ("a", "b", "c")
    assert [images.key(i) for i in range(len(images))] == [
        "a/0.bmp",
        "a/deep/1.PNG",
        "b/2.png",
        "c/x.jpeg",
    ]
    assert [images.label(i) for i in range(4)] == [0, 0, 1, 2]
    assert (np.asarray(images.image(2)) == pixels(0)).all()
    assert not FolderImages.official_split(tmp_path)


def test_flat_folder_has_no_labels(tmp_path):
    write_files(tmp_path, ["b.png", "a.png", ".hidden.png", ".thumbs/c.png"])
    images = FolderImages(tmp_path, "all")
    assert [images.key(i) for i in range(len(images))] == ["a.png", "b.png"]
    assert images.class_names == ()
    assert images.label(0) is None


@pytest.mark.parametrize("val", ["val", "valid", "test"])
def test_split_folders_share_their_classes(tmp_path, val):
    write_files(tmp_path, ["train/b/0.png", "train/c/1.png", f"{val}/a/2.png", f"{val}/c/3.png"])
    train, other, both = (FolderImages(tmp_path, side) for side in ("train", "val", "all"))
    assert train.class_names == other.class_names == ("a", "b", "c")
    assert [train.label(i) for i in range(len(train))] == [1, 2]
    assert [(other.key(i), other.label(i)) for i in range(len(other))] == [
        (f"{val}/a/2.png", 0),
        (f"{val}/c/3.png", 2),
    ]
    assert len(both) == 4
    assert (np.asarray(other.image(1)) == pixels(3)).all()
    assert val in FolderImages.official_split(tmp_path)


def test_split_folders_without_classes(tmp_path):
    write_files(tmp_path, ["train/0.png", "val/1.png"])
    assert FolderImages(tmp_path, "train").class_names == ()
    assert FolderImages(tmp_path, "val").key(0) == "val/1.png"


def test_loose_images_beside_classes(tmp_path):
    write_files(tmp_path, ["a/0.png", "b/1.png", "2.png"])
    with pytest.raises(InputError, match=r"1 images such as 2\.png lie beside class folders"):
        FolderImages(tmp_path, "all")


def test_a_single_class_is_a_mistake(tmp_path):
    write_files(tmp_path, ["train/0.png", "train/1.png"])
    with pytest.raises(InputError, match=r"one class folder only, 'train'; give .*train for"):
        FolderImages(tmp_path, "all")


def test_a_file_that_vanished(tmp_path):
    write_files(tmp_path, ["0.png", "1.png"])
    images = FolderImages(tmp_path, "all")
    os.remove(tmp_path / "0.png")
    with pytest.raises(UnreadableImageError, match=r"^0\.png cannot be read"):
        images.image(0)
