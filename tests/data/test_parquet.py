import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import pixels, png

from unmask.data.decoding import UnreadableImageError
from unmask.data.parquet import KEPT_GROUPS, ParquetImages
from unmask.errors import InputError


def write(file, values, *, labels=None, structs=True, names=(), group=2):
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
    file.parent.mkdir(exist_ok=True)
    pq.write_table(table, file, row_group_size=group)


def test_hub_layout(tmp_path):
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


def test_plain_bytes_without_labels(tmp_path):
    file = tmp_path / "x.parquet"
    write(file, [3, 4, 5], structs=False)
    images = ParquetImages(file, "all")
    assert images.class_names == ()
    assert (np.asarray(images.image(2)) == pixels(5)).all()


def test_few_row_groups_stay_in_memory_and_none_is_sent(tmp_path):
    file = tmp_path / "x.parquet"
    write(file, range(KEPT_GROUPS + 4), group=1)
    images = ParquetImages(file, "all")
    for row in range(len(images)):
        images.image(row)
    assert len(images._groups) == KEPT_GROUPS
    copy = pickle.loads(pickle.dumps(images))
    assert not copy._groups
    assert (np.asarray(copy.image(9)) == pixels(9)).all()


def test_missing_bytes_are_an_unreadable_image(tmp_path):
    file = tmp_path / "x.parquet"
    write(file, [1, None])
    with pytest.raises(UnreadableImageError, match=r"x\.parquet\[0\]\[1\]"):
        ParquetImages(file, "all").image(1)


def test_tables_that_hold_no_images(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"img": [b"a"]}), file)
    with pytest.raises(InputError, match=r"no column 'image' \(only img\)"):
        ParquetImages(file, "all")
    write(file, [1], labels=["cat"])
    with pytest.raises(InputError, match="'label' is of type string; it must be an integer"):
        ParquetImages(file, "all")
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="cannot be read as Parquet") as caught:
        ParquetImages(file, "all")
    assert "\n" not in str(caught.value)
