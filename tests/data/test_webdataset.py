import pickle

import numpy as np
import pytest
from tiny_data import pixels, png, write_shards, write_tar

from unmask.data.webdataset import TarImages
from unmask.errors import InputError


def test_sides_labels_and_random_access(tmp_path):
    root = write_shards(tmp_path)
    train, val = (TarImages(root, side) for side in ("train", "val"))
    assert (len(train), len(val), len(TarImages(root, "all"))) == (6, 3, 9)
    for row in (5, 0, 4, 1, 3, 2):
        assert (np.asarray(train.image(row)) == pixels(row)).all()
        assert train.label(row) == row % 2
    assert val.key(1) == "val-000000.tar/007.png"
    assert train.class_names == ("even", "odd")
    assert "val-000000.tar" in TarImages.official_split(root)


def test_one_tar_with_json_labels_and_folders(tmp_path):
    file = tmp_path / "some.tar"
    members = [("a/1.json", b'{"label": 2}'), ("a/1.png", png(1)), ("b/1.png", png(2))]
    write_tar(file, [*members, ("b/1.json", b'{"label": 0, "x": 1}')])
    images = TarImages(file, "all")
    assert [images.label(i) for i in range(2)] == [2, 0]
    assert (np.asarray(images.image(1)) == pixels(2)).all()
    assert images.class_names == ("0", "1", "2")
    assert not TarImages.official_split(file)


def test_unlabelled(tmp_path):
    write_tar(tmp_path / "x.tar", [("1.png", png(1)), ("1.json", b'{"caption": "a"}')])
    assert TarImages(tmp_path, "all").class_names == ()


def test_another_process_opens_its_own_maps(tmp_path):
    images = TarImages(write_shards(tmp_path), "train")
    images.image(0)
    content = pickle.dumps(images)
    assert len(content) < 5000
    assert (np.asarray(pickle.loads(content).image(4)) == pixels(4)).all()


def test_damaged_and_incomplete(tmp_path):
    file = tmp_path / "x.tar"
    write_tar(file, [("1.png", png(1)), ("1.cls", b"zero")])
    with pytest.raises(InputError, match=r"x\.tar: 1\.cls holds no class number"):
        TarImages(file, "all")
    write_tar(file, [("1.png", png(1)), ("1.cls", b"0"), ("2.png", png(2))])
    with pytest.raises(InputError, match=r"1 of 2 images of .* lack a label"):
        TarImages(file, "all")
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(InputError, match=r"x\.tar cannot be read as an uncompressed tar"):
        TarImages(file, "all")
    file.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"x\.tar cannot be read as an uncompressed tar"):
        TarImages(file, "all")
