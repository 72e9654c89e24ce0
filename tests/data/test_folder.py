import os

import numpy as np
import pytest
from forks import as_nobody, as_root, let_others_in
from scipy.io import savemat
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


@pytest.mark.parametrize("below", ["", "cat/", "cat/deep/"])
def test_train_alone_is_the_data_set(tmp_path, below):
    names = [f"train/{below}{i}.png" for i in range(3)]
    if below:
        names += ["train/dog/3.png"]
    write_files(tmp_path, names)
    images = FolderImages(tmp_path, "all")
    assert [images.key(i) for i in range(len(images))] == sorted(names)
    assert images.class_names == (("cat", "dog") if below else ())
    assert (np.asarray(images.image(0)) == pixels(0)).all()
    assert not FolderImages.official_split(tmp_path)


def test_a_file_that_vanished(tmp_path):
    write_files(tmp_path, ["0.png", "1.png"])
    images = FolderImages(tmp_path, "all")
    os.remove(tmp_path / "0.png")
    with pytest.raises(UnreadableImageError, match=r"^0\.png cannot be read"):
        images.image(0)


def test_bytes_and_stamps_are_those_of_the_file(tmp_path):
    write_files(tmp_path, ["a/0.png", "b/1.png"])
    images = FolderImages(tmp_path, "all")
    assert images.content(1) == (tmp_path / "b" / "1.png").read_bytes()
    before = images.stamp(1)
    (tmp_path / "b" / "1.png").write_bytes(b"other")
    assert images.stamp(1) != before
    assert images.content(1) == b"other"


@as_root
def test_a_file_that_may_not_be_read_is_one_unreadable_image(tmp_path):
    write_files(tmp_path, ["0.png", "1.png"])
    let_others_in(tmp_path)
    (tmp_path / "0.png").chmod(0)
    images = FolderImages(tmp_path, "all")

    def look():
        with pytest.raises(UnreadableImageError, match=r"^0\.png cannot be .*Permission denied"):
            images.image(0)
        images.image(1)

    assert as_nobody(look) == 0


def test_class_folders_may_be_links(tmp_path):
    write_files(tmp_path / "all", [f"{name}/{i}.png" for name in "abcd" for i in range(2)])
    (tmp_path / "some").mkdir()
    for name in "bd":
        (tmp_path / "some" / name).symlink_to(f"../all/{name}")
    images = FolderImages(tmp_path / "some", "all")
    assert FolderImages.recognises(tmp_path / "some")
    assert images.class_names == ("b", "d")
    assert len(images) == 4


def test_a_flat_val_beside_classes_is_unlabelled(tmp_path):
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png", "val/2.png", "val/3.png"])
    train, val = (FolderImages(tmp_path, side) for side in ("train", "val"))
    assert (train.class_names, train.labels) == (("a", "b"), [0, 1])
    assert (val.class_names, val.labels) == ((), [None, None])
    assert (train.total, val.total) == (4, 4)
    with pytest.raises(InputError, match=r"2 of 4 images of .* lie in no class folder"):
        FolderImages(tmp_path, "all")


def test_a_flat_train_beside_classes_is_a_mistake(tmp_path):
    write_files(tmp_path, ["val/a/0.png", "val/b/1.png", "train/2.png"])
    with pytest.raises(InputError, match=r"train has no class folders, .*val has"):
        FolderImages(tmp_path, "val")


def test_class_folders_of_both_spellings_are_one_class(tmp_path):
    write_files(tmp_path, ["train/do\u0308g/0.png", "train/e/1.png", "val/d\u00f6g/2.png"])
    train, val = (FolderImages(tmp_path, side) for side in ("train", "val"))
    assert train.class_names == val.class_names == ("d\u00f6g", "e")
    assert (train.labels, val.labels) == ([0, 1], [0])
    assert train.image(0).size == (8, 8)


@pytest.mark.parametrize(
    ("content", "names", "labels"),
    [
        ('["z", "y"]', ("z", "y"), [0, 1]),
        ('["b", "a"]', ("b", "a"), [1, 0]),
        ('["x", "b", "c", "a"]', ("x", "b", "c", "a"), [3, 1]),
        ('{"b": "dog", "a": "cat", "c": "cow"}', ("cat", "dog"), [0, 1]),
        ('\ufeff["z", "y"]', ("z", "y"), [0, 1]),
    ],
    ids=["names", "an order", "an order of more", "an object", "a byte order mark"],
)
@pytest.mark.parametrize("below", ["", "train/"])
def test_a_file_of_class_names_beside_the_folders(tmp_path, content, names, labels, below):
    write_files(tmp_path, [f"{below}a/0.png", f"{below}b/1.png"])
    (tmp_path / below / "classes.json").write_text(content, "utf8")
    images = FolderImages(tmp_path, "all")
    assert (images.class_names, images.labels) == (names, labels)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('["a"]', "names 1 classes, and there are 2 class folders, of which it lacks 'b'"),
        ('["a", "c", "d"]', "lacks 'b'"),
        ('["z", "z"]', "both 'z'"),
        ('{"a": "cat"}', "gives no name to the class folder 'b'"),
        ('{"a": "cat", "b": 3}', "list of strings"),
        ('{"a": "cat", "b": "cat"}', "both 'cat'"),
        ("7", "list of strings"),
        ("[" * 100_000, "nested too deeply"),
        ("", "not valid JSON"),
    ],
)
def test_names_that_do_not_fit_the_folders(tmp_path, content, said):
    write_files(tmp_path, ["a/0.png", "b/1.png"])
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=rf"classes\.json.*{said}"):
        FolderImages(tmp_path, "all")


TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize("place", ["", "val/", "data/", "ILSVRC2012_devkit_t12/data/"])
@pytest.mark.parametrize("numbers", [True, False])
def test_the_development_kit_labels_a_flat_val(tmp_path, place, numbers):
    """Line k is image k, by a number of the kit's own; what train has no class for is left out."""
    write_files(tmp_path, [f"train/{name}/0.png" for name in ("n03", "n01", "n02")])
    images = [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 4, 5)]
    write_files(tmp_path, images)
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    truth = [2, 3, 1, 1, 4]
    synsets = ["n03", "n01", "n02", "n99"]
    (folder / TRUTH).write_text("".join(f"{k if numbers else synsets[k - 1]}\n" for k in truth))
    if numbers:
        records = [(k, name) for k, name in enumerate(synsets, 1)]
        table = np.array(records, dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
        savemat(folder / "meta.mat", {"synsets": table}, do_compression=True)
    val = FolderImages(tmp_path, "val")
    assert val.class_names == ("n01", "n02", "n03")
    assert [val.key(i) for i in range(len(val))] == images[:3]
    assert val.labels == [0, 1, 2]
    assert any("1 images of classes that have no folder" in note for note in val.notes)
    assert len(FolderImages(tmp_path, "all")) == 6
