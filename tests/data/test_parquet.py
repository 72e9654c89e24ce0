from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import pixels, png

from unmask.data.decoding import UnreadableImageError
from unmask.data.parquet import KEPT_GROUPS, ParquetImages
from unmask.errors import InputError


def write(
    file: Path,
    values: range | list[int | None],
    *,
    labels: list[int | str] | None = None,
    structs: bool = True,
    names: tuple[str, ...] = (),
    group: int = 2,
) -> None:
    contents = [None if value is None else png(value) for value in values]
    images = [{"bytes": c, "path": "x"} for c in contents] if structs else contents
    columns = {"image": pa.array(images)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names:
        label = {"names": list(names), "_type": "ClassLabel"}
        note = json.dumps({"info": {"features": {"label": label}}})
        table = table.replace_schema_metadata({"huggingface": note})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)


def test_hub_layout(tmp_path: Path) -> None:
    write(tmp_path / "data/train-0.parquet", range(5), labels=[0, 1, 0, 1, 1], names=("n", "y"))
    write(tmp_path / "data/test-0.parquet", [7, 8], labels=[1, 0], names=("n", "y"))
    train, val = (ParquetImages(tmp_path, side) for side in ("train", "val"))
    assert (len(train), len(val), len(ParquetImages(tmp_path, "all"))) == (5, 2, 7)
    assert train.class_names == ("n", "y")
    for row in (4, 0, 3, 1, 2):
        assert (np.asarray(train.image(row)) == pixels(row)).all()
    assert [train.label(i) for i in range(5)] == [0, 1, 0, 1, 1]
    assert val.key(1) == "test-0.parquet[0][1]"
    assert "test-0.parquet" in ParquetImages.official_split(tmp_path)


def test_plain_bytes_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, [3, 4, 5], structs=False)
    images = ParquetImages(file, "all")
    assert images.class_names == ()
    assert (np.asarray(images.image(2)) == pixels(5)).all()


def test_few_row_groups_stay_in_memory_and_none_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, range(KEPT_GROUPS + 4), group=1)
    images = ParquetImages(file, "all")
    for row in range(len(images)):
        images.image(row)
    assert len(images._groups.kept) == KEPT_GROUPS
    copy = pickle.loads(pickle.dumps(images))
    assert not copy._groups.kept
    assert (np.asarray(copy.image(9)) == pixels(9)).all()


def test_missing_bytes_are_an_unreadable_image(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, [1, None])
    with pytest.raises(UnreadableImageError, match=r"x\.parquet\[0\]\[1\]"):
        ParquetImages(file, "all").image(1)


def noted(file: Path, columns: dict[str, Any], note: str) -> None:
    """A table with the hub's note."""
    table = pa.table(columns).replace_schema_metadata({"huggingface": note})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def classes(*names: str) -> dict[str, list[str] | str]:
    return {"names": list(names), "_type": "ClassLabel"}


def features(**of: Any) -> str:
    return json.dumps({"info": {"features": of}})


def test_tables_that_hold_no_images(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"size": [1]}), file)
    with pytest.raises(InputError, match=r"no column of encoded images \(only size\)"):
        ParquetImages(file, "all")
    write(file, [1], labels=["cat"])
    with pytest.raises(InputError, match="'label' is of type string; it must be an integer"):
        ParquetImages(file, "all")
    pq.write_table(pa.table({"image": [png(1)] * 30_000}), file)  # stored once
    with pytest.raises(InputError, match=r"it states 30000 rows and has \d{3,4} bytes"):
        ParquetImages(file, "all")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read as Parquet") as caught:
        ParquetImages(file, "all")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [["a.png"], [{"path": "a.png"}], [[[1, 2], [3, 4]]], [7]])
def test_a_column_without_bytes_says_so(
    tmp_path: Path, image: list[dict[str, str] | int | list[list[int]] | str]
) -> None:
    pq.write_table(pa.table({"image": image}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no bytes are stored in column 'image', which is of type"):
        ParquetImages(tmp_path, "all")


def test_an_image_with_a_path_only_says_so(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": "a/b.png"}], kind)
    pq.write_table(pa.table({"image": image}), tmp_path / "x.parquet")
    with pytest.raises(UnreadableImageError, match=r"no bytes are stored .*only the path 'a/b"):
        ParquetImages(tmp_path, "all").image(0)


def test_columns_by_other_names(tmp_path: Path) -> None:
    note = features(img={"_type": "Image"}, fine_label=classes("a", "b"), coarse_label=classes("c"))
    columns = {"img": [{"bytes": png(3), "path": None}], "fine_label": [1], "coarse_label": [0]}
    noted(tmp_path / "plain_text" / "train-0.parquet", columns, note)
    images = ParquetImages(tmp_path, "all")  # CIFAR-100's layout, by its root
    assert (images.class_names, images.label(0)) == (("a", "b"), 1)
    assert (np.asarray(images.image(0)) == pixels(3)).all()
    assert images.notes == [
        "1 of the 2 classes have no image",
        "the images are the column 'img'",
        "the labels are the column 'fine_label'",
        "columns that are not used: coarse_label",
    ]
    pq.write_table(pa.table({"picture": [png(4)], "n": [1]}), tmp_path / "x.parquet")
    assert (np.asarray(ParquetImages(tmp_path, "all").image(0)) == pixels(4)).all()
    pq.write_table(pa.table({"left": [png(4)], "right": [png(5)]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"several columns .* \(left, right\); call the one"):
        ParquetImages(tmp_path, "all")


def test_several_configurations_are_not_mixed(tmp_path: Path) -> None:
    for name in ("cropped", "full"):
        write(tmp_path / name / "train-0.parquet", [1])
    with pytest.raises(InputError, match=r"in 2 folders \(cropped, full\); give one of them"):
        ParquetImages.recognises(tmp_path)


@pytest.mark.parametrize(
    "note",
    ["null", "[]", "3", "{}", '{"info": null}', '{"info": [1]}', '{"info": {"features": 3}}',
     '{"info": {"features": {"label": []}}}', '{"info": {"features": {"label": {"names": null}}}}'],
)  # fmt: skip
def test_notes_of_any_shape_that_name_nothing(tmp_path: Path, note: str) -> None:
    noted(tmp_path / "x.parquet", {"image": [png(1)], "label": [0]}, note)
    assert ParquetImages(tmp_path, "all").class_names == ("0",)


@pytest.mark.parametrize(
    ("names", "said"),
    [([0, 1], "list of strings"), ("ab", "list of strings"), ({"0": "a"}, "list of strings"),
     (["a", "a"], "both 'a'"), ([["a"]], "list of strings")],
)  # fmt: skip
def test_names_that_are_none(
    tmp_path: Path, names: dict[str, str] | str | list[int | list[str] | str], said: str
) -> None:
    columns = {"image": [png(1)], "label": [0]}
    noted(tmp_path / "x.parquet", columns, features(label={"names": names}))
    with pytest.raises(InputError, match=rf"{said}.* or name the classes in a classes\.json"):
        ParquetImages(tmp_path, "all")
    (tmp_path / "classes.json").write_text('["a", "b"]')
    assert ParquetImages(tmp_path, "all").class_names == ("a", "b")


@pytest.mark.parametrize("note", ["[" * 100_000, "{", "\xff"])
def test_notes_that_are_no_json(tmp_path: Path, note: str) -> None:
    noted(tmp_path / "x.parquet", {"image": [png(1)], "label": [0]}, note)
    with pytest.raises(InputError, match=r"the note in .*x\.parquet is"):
        ParquetImages(tmp_path, "all")


def test_names_that_differ_between_files_are_joined_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [1, 2], labels=[0, 1], names=("cat", "dog"))
    write(tmp_path / "train-1.parquet", [3, 4], labels=[0, 2], names=("dog", "fox", "cat"))
    write(tmp_path / "test-0.parquet", [5], labels=[0], names=("ant",))
    train, val = (ParquetImages(tmp_path, side) for side in ("train", "val"))
    assert train.class_names == val.class_names
    told = [train.class_names[train.label(row) or 0] for row in range(4)]
    assert told == ["cat", "dog", "dog", "cat"]
    assert val.class_names[val.label(0) or 0] == "ant"
    (tmp_path / "classes.json").write_text('["dog", "cat", "ant", "fox"]')
    train = ParquetImages(tmp_path, "train")
    assert [train.label(row) for row in range(4)] == [1, 0, 0, 1]
    (tmp_path / "classes.json").write_text('["dog", "cat", "ant"]')
    with pytest.raises(InputError, match=r"class 'fox', which classes\.json beside"):
        ParquetImages(tmp_path, "all")
    (tmp_path / "classes.json").unlink()
    write(tmp_path / "train-1.parquet", [3], labels=[0])
    with pytest.raises(InputError, match=r"names its classes and .*train-1\.parquet does not"):
        ParquetImages(tmp_path, "all")
    write(tmp_path / "train-1.parquet", [3], labels=[2], names=("dog", "fox"))
    with pytest.raises(InputError, match=r"train-1\.parquet has the label 2 but only 2 class"):
        ParquetImages(tmp_path, "all")


def test_a_test_side_without_labels(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", [1, 2], labels=[0, 1], names=("cat", "dog"))
    write(tmp_path / "test-0.parquet", [3, 4], labels=[-1, -1], names=("cat", "dog"))
    train, val = (ParquetImages(tmp_path, side) for side in ("train", "val"))
    assert (train.class_names, train.label(1)) == (("cat", "dog"), 1)
    assert (val.class_names, val.label(1)) == ((), None)
    assert val.notes == ["2 images are labelled -1 throughout, which counts as unlabelled"]
    write(tmp_path / "test-0.parquet", [3, 4], labels=[-1, 0], names=("cat", "dog"))
    with pytest.raises(InputError, match="the label -1 beside others"):
        ParquetImages(tmp_path, "val")


@pytest.mark.parametrize("label", [10**12, 30_000_000])
def test_labels_that_count_no_classes(tmp_path: Path, label: int) -> None:
    write(tmp_path / "x.parquet", [1], labels=[label])
    with pytest.raises(InputError, match="labels are numbers of classes, from 0 to 999,999"):
        ParquetImages(tmp_path, "all")


def test_content_and_stamp(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [1, 2, 3])
    images = ParquetImages(tmp_path, "all")
    assert [images.content(row) for row in range(3)] == [png(1), png(2), png(3)]
    assert len({images.stamp(row) for row in range(3)}) == 3


def test_damage_that_shows_when_an_image_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write(file, [1, 2])
    images = ParquetImages(file, "all")
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"x\.parquet\[0\]\[0\]"):
        images.image(0)
    file.unlink()
    with pytest.raises(UnreadableImageError):
        images.image(1)


def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    for i in range(150):
        write(tmp_path / f"{i:03d}.parquet", [i])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        images = ParquetImages(tmp_path, "all")
        assert [images.content(row) for row in range(150)] == [png(i) for i in range(150)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
