"""Folders of images: classes, splits, and what is refused or named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import as_nobody, as_root, let_others_in
from scipy.io import savemat
from tiny_data import pixels, write_files

from unmask.data import folder as folder_module
from unmask.data.classes import class_name
from unmask.data.decoding import UnreadableImageError
from unmask.data.folder import FolderImages, Part, class_of, layout_of, split_folders
from unmask.data.source import open_source
from unmask.data.split import TRAIN_NAMES, VAL_NAMES, Split
from unmask.errors import InputError


def test_class_folders(tmp_path: Path) -> None:
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


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_files(tmp_path, ["b.png", "a.png", ".hidden.png", ".thumbs/c.png"])
    images = FolderImages(tmp_path, "all")
    assert [images.key(i) for i in range(len(images))] == ["a.png", "b.png"]
    assert images.class_names == ()
    assert images.label(0) is None


@pytest.mark.parametrize("val", ["val", "valid", "test"])
def test_split_folders_share_their_classes(tmp_path: Path, val: str) -> None:
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


def test_split_folders_without_classes(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/0.png", "val/1.png"])
    assert FolderImages(tmp_path, "train").class_names == ()
    assert FolderImages(tmp_path, "val").key(0) == "val/1.png"


def test_loose_images_beside_classes(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/0.png", "b/1.png", "2.png"])
    with pytest.raises(InputError, match=r"1 images such as 2\.png lie beside class folders"):
        FolderImages(tmp_path, "all")


@pytest.mark.parametrize("below", ["", "cat/", "cat/deep/"])
def test_train_alone_is_the_data_set(tmp_path: Path, below: str) -> None:
    names = [f"train/{below}{i}.png" for i in range(3)]
    if below:
        names += ["train/dog/3.png"]
    write_files(tmp_path, names)
    images = FolderImages(tmp_path, "all")
    assert [images.key(i) for i in range(len(images))] == sorted(names)
    assert images.class_names == (("cat", "dog") if below else ())
    assert (np.asarray(images.image(0)) == pixels(0)).all()
    assert not FolderImages.official_split(tmp_path)


def test_a_file_that_vanished(tmp_path: Path) -> None:
    write_files(tmp_path, ["0.png", "1.png"])
    images = FolderImages(tmp_path, "all")
    os.remove(tmp_path / "0.png")
    with pytest.raises(UnreadableImageError, match=r"^0\.png cannot be read"):
        images.image(0)


def test_bytes_and_stamps_are_those_of_the_file(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/0.png", "b/1.png"])
    images = FolderImages(tmp_path, "all")
    assert images.content(1) == (tmp_path / "b" / "1.png").read_bytes()
    before = images.stamp(1)
    (tmp_path / "b" / "1.png").write_bytes(b"other")
    assert images.stamp(1) != before
    assert images.content(1) == b"other"


@as_root
def test_a_file_that_may_not_be_read_is_one_unreadable_image(tmp_path: Path) -> None:
    write_files(tmp_path, ["0.png", "1.png"])
    let_others_in(tmp_path)
    (tmp_path / "0.png").chmod(0)
    images = FolderImages(tmp_path, "all")

    def look() -> Any:
        with pytest.raises(UnreadableImageError, match=r"^0\.png cannot be .*Permission denied"):
            images.image(0)
        images.image(1)

    assert as_nobody(look) == 0


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    write_files(tmp_path / "all", [f"{name}/{i}.png" for name in "abcd" for i in range(2)])
    (tmp_path / "some").mkdir()
    for name in "bd":
        (tmp_path / "some" / name).symlink_to(f"../all/{name}")
    images = FolderImages(tmp_path / "some", "all")
    assert FolderImages.recognises(tmp_path / "some")
    assert images.class_names == ("b", "d")
    assert len(images) == 4


def test_a_flat_val_beside_classes_is_unlabelled(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png", "val/2.png", "val/3.png"])
    train, val = (FolderImages(tmp_path, side) for side in ("train", "val"))
    assert (train.class_names, train.labels) == (("a", "b"), [0, 1])
    assert (val.class_names, val.labels) == ((), [None, None])
    assert (train.total, val.total) == (4, 4)
    with pytest.raises(InputError, match=r"2 of 4 images of .* lie in no class folder"):
        FolderImages(tmp_path, "all")


def test_a_flat_train_beside_classes_is_a_mistake(tmp_path: Path) -> None:
    write_files(tmp_path, ["val/a/0.png", "val/b/1.png", "train/2.png"])
    with pytest.raises(InputError, match=r"train has no class folders, .*val has"):
        FolderImages(tmp_path, "val")


def test_class_folders_of_both_spellings_are_one_class(tmp_path: Path) -> None:
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
def test_a_file_of_class_names_beside_the_folders(
    tmp_path: Path, content: str, names: tuple[str, ...], labels: list[int], below: str
) -> None:
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
def test_names_that_do_not_fit_the_folders(tmp_path: Path, content: str, said: str) -> None:
    write_files(tmp_path, ["a/0.png", "b/1.png"])
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(InputError, match=rf"classes\.json.*{said}"):
        FolderImages(tmp_path, "all")


TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize("place", ["", "val/", "data/", "ILSVRC2012_devkit_t12/data/"])
@pytest.mark.parametrize("numbers", [True, False])
def test_the_development_kit_labels_a_flat_val(tmp_path: Path, place: str, numbers: bool) -> None:
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
        table = np.array(records, dtype=[("ILSVRC2012_ID", Any), ("WNID", Any)])
        savemat(folder / "meta.mat", {"synsets": table}, do_compression=True)
    val = FolderImages(tmp_path, "val")
    assert val.class_names == ("n01", "n02", "n03")
    assert [val.key(i) for i in range(len(val))] == images[:3]
    assert val.labels == [0, 1, 2]
    assert any("1 images of classes that have no folder" in note for note in val.notes)
    assert len(FolderImages(tmp_path, "all")) == 6


def test_places_and_classes_of_a_part() -> None:
    part = Part("train", ["a/0.png", "a/deep/1.png", "do\u0308g/2.png"])
    assert part.places == ["train/a/0.png", "train/a/deep/1.png", "train/do\u0308g/2.png"]
    assert part.classes == ["a", "d\u00f6g"]
    assert class_of("0.png") is None
    assert Part("", ["0.png", "a/1.png"]).loose == ["0.png"]


@pytest.mark.parametrize("train", [*TRAIN_NAMES, "Train", "TRAINING"])
@pytest.mark.parametrize("val", [*VAL_NAMES, "Val", "VALIDATION"])
def test_a_split_by_any_usual_name(tmp_path: Path, train: str, val: str) -> None:
    write_files(tmp_path, [f"{side}/{name}/0.png" for side in (train, val) for name in "ab"])
    assert split_folders(tmp_path) == {"train": train, "val": val}
    parts, notes = layout_of(tmp_path)
    assert [part.classes for part in parts.values()] == [["a", "b"], ["a", "b"]]
    assert notes == []
    sides: tuple[tuple[Split, str], ...] = (("train", train), ("val", val))
    for split, folder in sides:
        source = open_source(tmp_path, split=split)
        assert source.class_names == ("a", "b")
        assert [source.key(i) for i in range(2)] == [f"{folder}/a/0.png", f"{folder}/b/0.png"]


def test_what_lies_beside_the_split_is_told(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png", "val/a/2.png", "test/x.png", "3.png"])
    (tmp_path / "train.zip").touch()
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "val" / "a" / "x.gif").touch()
    assert layout_of(tmp_path)[1] == [
        f"left out of {tmp_path}: 2 beside train and val: 3.png, test; "
        "1 archive, not unpacked: train.zip",
        f"left out of {tmp_path}/train: 1 without images: empty",
        f"left out of {tmp_path}/val: 1 .gif",
    ]


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("Trainset", "Testset"), ("a", "b", "c")])
def test_parts_of_a_data_set_are_not_taken_for_classes(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    write_files(tmp_path, [f"{name}/{kind}/0.png" for name in names for kind in ("cat", "dog")])
    with pytest.raises(
        InputError, match=rf"the folders {', '.join(sorted(names))} all hold cat, dog"
    ):
        layout_of(tmp_path)


def test_classes_whose_folders_differ_or_hold_images_are_classes(tmp_path: Path) -> None:
    write_files(tmp_path / "tiny", [f"{name}/images/0.png" for name in "ab"])
    write_files(tmp_path / "odd", ["a/x/0.png", "a/y/0.png", "b/x/0.png"])
    write_files(tmp_path / "more", [f"{c}/{d}0.png" for c in "ab" for d in ("", "x/", "y/")])
    for name in ("tiny", "odd", "more"):
        assert layout_of(tmp_path / name)[0]["all"].classes == ["a", "b"]


def test_a_lone_class_is_a_mistake_whose_way_out_is_right(tmp_path: Path) -> None:
    write_files(tmp_path / "one", ["cat/0.png", "cat/1.png"])
    with pytest.raises(InputError, match=r"'cat'; give \S+one/cat for unlabelled images, or add"):
        layout_of(tmp_path / "one")
    write_files(tmp_path / "two", ["imagenet/cat/0.png", "imagenet/dog/1.png"])
    with pytest.raises(InputError, match=r"give \S+two/imagenet which has the classes cat, dog"):
        layout_of(tmp_path / "two")
    assert len(open_source(tmp_path / "two" / "imagenet", split="all")) == 2


def test_two_folders_of_one_side_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/a/0.png", "Train/b/1.png", "val/a/2.png"])
    with pytest.raises(InputError, match="holds the folders Train and train; keep one"):
        layout_of(tmp_path)


def test_sides_that_are_one_folder_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png"])
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(InputError, match="train and val are one folder; hold other images out"):
        layout_of(tmp_path)


def test_the_work_grows_with_the_files_and_not_with_files_times_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, [f"{i:02d}/{j}.png" for i in range(40) for j in range(3)])
    asked: list[str] = []

    def counted(name: str) -> str:
        asked.append(name)
        return class_name(name)

    monkeypatch.setattr(folder_module, "class_name", counted)
    assert len(FolderImages(tmp_path, "all")) == 120
    assert len(asked) <= 3 * 120
