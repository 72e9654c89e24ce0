import numpy as np
import pytest
import torch
from PIL import Image

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.image_sets import (
    ImageBatch,
    as_batches,
    gather,
    open_image_set,
    write_folder,
    write_npz,
)


def images(count, channels=3, height=6, width=5):
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=keyed_generator(0, "set"), dtype=torch.uint8)


def batches(pixels, labels=None, size=4):
    for start in range(0, len(pixels), size):
        part = slice(start, start + size)
        yield ImageBatch(pixels[part], None if labels is None else labels[part])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, torch.arange(10)])
def test_npz_returns_what_was_written(tmp_path, channels, labels):
    x = images(10, channels)
    assert write_npz(tmp_path / "a.npz", batches(x, labels)) == 10
    found = gather(open_image_set(tmp_path / "a.npz", batch_size=3))
    assert torch.equal(found.images, x)
    assert (found.labels is None) if labels is None else torch.equal(found.labels, labels)


def test_npz_is_what_numpy_reads_and_writes(tmp_path):
    x, labels = images(5), torch.tensor([3, 1, 4, 1, 5])
    write_npz(tmp_path / "own.npz", batches(x, labels))
    with np.load(tmp_path / "own.npz") as file:
        assert sorted(file) == ["arr_0", "arr_1"]
        assert np.array_equal(file["arr_0"], x.permute(0, 2, 3, 1).numpy())
        assert file["arr_1"].tolist() == labels.tolist()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "numpy.npz", x.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy())
        found = gather(open_image_set(tmp_path / "numpy.npz", batch_size=2))
        assert torch.equal(found.images, x)
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_returns_what_was_written(tmp_path, channels):
    x = images(7, channels)
    assert write_folder(tmp_path / "plain", batches(x)) == 7
    found = gather(open_image_set(tmp_path / "plain", batch_size=2))
    assert torch.equal(found.images, x)
    assert found.labels is None


def test_folders_give_labels(tmp_path):
    x, labels = images(6), torch.tensor([2, 0, 11, 2, 0, 1])
    write_folder(tmp_path / "set", batches(x, labels))
    assert (tmp_path / "set" / "class_11" / "000002.png").is_file()
    found = gather(open_image_set(tmp_path / "set"))
    pairs = sorted(zip(found.labels.tolist(), found.images.sum((1, 2, 3)).tolist(), strict=True))
    assert pairs == sorted(zip(labels.tolist(), x.sum((1, 2, 3)).tolist(), strict=True))


def test_unreadable_files_are_named_and_left_out(tmp_path):
    x = images(4)
    write_folder(tmp_path / "set", [x])
    whole = (tmp_path / "set" / "000001.png").read_bytes()
    (tmp_path / "set" / "000001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "set" / "000002.png").write_text("no image")
    deep = Image.fromarray(np.zeros((6, 5), np.uint16))
    deep.save(tmp_path / "set" / "deep.png")
    found = open_image_set(tmp_path / "set")
    for _ in range(2):  # a second reading does not count twice
        assert torch.equal(gather(found).images, x[[0, 3]])
        assert [line.split(": ")[0].rsplit("/", 1)[1] for line in found.skipped] == [
            "000001.png",
            "000002.png",
            "deep.png",
        ]


def test_sizes_must_agree_within_a_folder(tmp_path):
    write_folder(tmp_path / "set", [images(2)])
    Image.new("RGB", (9, 9)).save(tmp_path / "set" / "odd.png")
    with pytest.raises(InputError, match=r"odd.png has shape \(3, 9, 9\)"):
        gather(open_image_set(tmp_path / "set"))


def test_missing_and_empty_sets(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_image_set(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no PNG file"):
        open_image_set(tmp_path)
    np.savez(tmp_path / "empty.npz", np.zeros((0, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="0 images"):
        open_image_set(tmp_path / "empty.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "uint8"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, "uint8"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no arr_0"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, int)}, "labels"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(2)}, "labels"),
    ],
)
def test_other_layouts_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_image_set(tmp_path / "a.npz")


def test_cut_off_files_are_refused(tmp_path):
    write_npz(tmp_path / "a.npz", [images(50)])
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read"):
        open_image_set(tmp_path / "a.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_npz(tmp_path / "a.npz", [images(3)])
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(InputError, match="one set needs one shape"):
        write_npz(tmp_path / "a.npz", [images(3), images(3, height=7)])
    with pytest.raises(InputError, match="at least 1"):
        write_npz(tmp_path / "a.npz", [])
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_nothing_is_written_over_a_used_folder_or_an_odd_name(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="but no image set"):
        write_folder(tmp_path, [images(1)])
    with pytest.raises(InputError, match=r"must end in \.npz"):
        write_npz(tmp_path / "a.zip", [images(1)])
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("kind", ["a.npz", "deflated.npz", "folder"])
def test_any_range_can_be_read_alone(tmp_path, kind):
    x = images(23)
    if kind == "folder":
        write_folder(tmp_path / kind, [x])
    elif kind == "a.npz":
        write_npz(tmp_path / kind, [x])
    else:
        np.savez_compressed(tmp_path / kind, x.permute(0, 2, 3, 1).numpy())
    found = open_image_set(tmp_path / kind, batch_size=4)
    assert len(found) == 23
    for start, stop in ((0, 8), (8, 16), (16, 99)):
        parts = [batch.images for batch in found.between(start, stop)]
        assert torch.equal(torch.cat(parts), x[start:stop])
        assert max(map(len, parts)) == 4


def test_float_batches_are_refused():
    with pytest.raises(InputError, match="to_uint8"):
        list(as_batches([images(2).float()]))
