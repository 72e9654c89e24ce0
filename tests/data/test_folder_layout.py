import pytest
from tiny_data import write_files

from unmask.data import folder_layout
from unmask.data.classes import class_name
from unmask.data.folder import FolderImages
from unmask.data.folder_layout import Part, class_of, layout_of, split_folders
from unmask.data.source import open_source
from unmask.data.split import TRAIN_NAMES, VAL_NAMES
from unmask.errors import InputError


def test_places_and_classes_of_a_part():
    part = Part("train", ["a/0.png", "a/deep/1.png", "do\u0308g/2.png"])
    assert part.places == ["train/a/0.png", "train/a/deep/1.png", "train/do\u0308g/2.png"]
    assert part.classes == ["a", "d\u00f6g"]
    assert class_of("0.png") is None
    assert Part("", ["0.png", "a/1.png"]).loose == ["0.png"]


@pytest.mark.parametrize("train", [*TRAIN_NAMES, "Train", "TRAINING"])
@pytest.mark.parametrize("val", [*VAL_NAMES, "Val", "VALIDATION"])
def test_a_split_by_any_usual_name(tmp_path, train, val):
    write_files(tmp_path, [f"{side}/{name}/0.png" for side in (train, val) for name in "ab"])
    assert split_folders(tmp_path) == {"train": train, "val": val}
    parts, notes = layout_of(tmp_path)
    assert [part.classes for part in parts.values()] == [["a", "b"], ["a", "b"]]
    assert notes == []
    for split, folder in (("train", train), ("val", val)):
        source = open_source(tmp_path, split=split)
        assert source.class_names == ("a", "b")
        assert [source.key(i) for i in range(2)] == [f"{folder}/a/0.png", f"{folder}/b/0.png"]


def test_what_lies_beside_the_split_is_told(tmp_path):
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png", "val/a/2.png", "test/x.png", "3.png"])
    (tmp_path / "train.zip").touch()
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "val" / "a" / "x.gif").touch()
    assert layout_of(tmp_path).notes == [
        f"left out of {tmp_path}: 2 beside train and val: 3.png, test; "
        "1 archive, not unpacked: train.zip",
        f"left out of {tmp_path}/train: 1 without images: empty",
        f"left out of {tmp_path}/val: 1 .gif",
    ]


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("Trainset", "Testset"), ("a", "b", "c")])
def test_parts_of_a_data_set_are_not_taken_for_classes(tmp_path, names):
    write_files(tmp_path, [f"{name}/{kind}/0.png" for name in names for kind in ("cat", "dog")])
    with pytest.raises(
        InputError, match=rf"the folders {', '.join(sorted(names))} all hold cat, dog"
    ):
        layout_of(tmp_path)


def test_classes_whose_folders_differ_or_hold_images_are_classes(tmp_path):
    write_files(tmp_path / "tiny", [f"{name}/images/0.png" for name in "ab"])
    write_files(tmp_path / "odd", ["a/x/0.png", "a/y/0.png", "b/x/0.png"])
    write_files(tmp_path / "more", [f"{c}/{d}0.png" for c in "ab" for d in ("", "x/", "y/")])
    for name in ("tiny", "odd", "more"):
        assert layout_of(tmp_path / name).parts["all"].classes == ["a", "b"]


def test_a_lone_class_is_a_mistake_whose_way_out_is_right(tmp_path):
    write_files(tmp_path / "one", ["cat/0.png", "cat/1.png"])
    with pytest.raises(InputError, match=r"'cat'; give \S+one/cat for unlabelled images, or add"):
        layout_of(tmp_path / "one")
    write_files(tmp_path / "two", ["imagenet/cat/0.png", "imagenet/dog/1.png"])
    with pytest.raises(InputError, match=r"give \S+two/imagenet which has the classes cat, dog"):
        layout_of(tmp_path / "two")
    assert len(open_source(tmp_path / "two" / "imagenet", split="all")) == 2


def test_two_folders_of_one_side_are_refused(tmp_path):
    write_files(tmp_path, ["train/a/0.png", "Train/b/1.png", "val/a/2.png"])
    with pytest.raises(InputError, match="holds the folders Train and train; keep one"):
        layout_of(tmp_path)


def test_sides_that_are_one_folder_are_refused(tmp_path):
    write_files(tmp_path, ["train/a/0.png", "train/b/1.png"])
    (tmp_path / "val").symlink_to("train")
    with pytest.raises(InputError, match="train and val are one folder; hold other images out"):
        layout_of(tmp_path)


def test_the_work_grows_with_the_files_and_not_with_files_times_classes(tmp_path, monkeypatch):
    write_files(tmp_path, [f"{i:02d}/{j}.png" for i in range(40) for j in range(3)])
    asked = []
    monkeypatch.setattr(
        folder_layout, "class_name", lambda name: asked.append(name) or class_name(name)
    )
    assert len(FolderImages(tmp_path, "all")) == 120
    assert len(asked) <= 3 * 120
