"""Sets of images on disk: what is written is read, and what is damaged is named."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.image_batch import ImageBatch, as_batches, gather
from unmask.evaluate.image_sets import open_image_set, write_folder, write_npz
from unmask.pictures import to_pil


def images(count: int, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=keyed_generator(0, "set"), dtype=torch.uint8)


def same_labels(found: Tensor | None, wanted: Tensor | None) -> bool:
    """Whether there are as many, and the same."""
    if found is None or wanted is None:
        return found is wanted
    return torch.equal(found, wanted)


def batches(pixels: Tensor, labels: Tensor | None = None, size: int = 4) -> Iterator[ImageBatch]:
    for start in range(0, len(pixels), size):
        part = slice(start, start + size)
        yield ImageBatch(pixels[part], None if labels is None else labels[part])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, torch.arange(10)])
def test_npz_returns_what_was_written(tmp_path: Path, channels: int, labels: Tensor | None) -> None:
    x = images(10, channels)
    assert write_npz(tmp_path / "a.npz", batches(x, labels)) == 10
    found = gather(open_image_set(tmp_path / "a.npz", batch_size=3))
    assert torch.equal(found.images, x)
    assert same_labels(found.labels, labels)


def test_npz_is_what_numpy_reads_and_writes(tmp_path: Path) -> None:
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
        assert same_labels(found.labels, labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_returns_what_was_written(tmp_path: Path, channels: int) -> None:
    x = images(7, channels)
    assert write_folder(tmp_path / "plain", batches(x)) == 7
    found = gather(open_image_set(tmp_path / "plain", batch_size=2))
    assert torch.equal(found.images, x)
    assert found.labels is None


def test_folders_give_labels(tmp_path: Path) -> None:
    x, labels = images(6), torch.tensor([2, 0, 11, 2, 0, 1])
    write_folder(tmp_path / "set", batches(x, labels))
    assert (tmp_path / "set" / "class_11" / "000002.png").is_file()
    found = gather(open_image_set(tmp_path / "set"))
    assert found.labels is not None
    pairs = sorted(zip(found.labels.tolist(), found.images.sum((1, 2, 3)).tolist(), strict=True))
    assert pairs == sorted(zip(labels.tolist(), x.sum((1, 2, 3)).tolist(), strict=True))


def test_unreadable_files_are_named_and_left_out(tmp_path: Path) -> None:
    x = images(4)
    write_folder(tmp_path / "set", [x])
    whole = (tmp_path / "set" / "000001.png").read_bytes()
    (tmp_path / "set" / "000001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "set" / "000002.png").write_text("no image")
    unknown = Image.fromarray(np.full((6, 5), np.nan, np.float32))
    unknown.save(tmp_path / "set" / "deep.tif")
    Image.new("1", (15000, 13000)).save(tmp_path / "set" / "bomb.png")
    found = open_image_set(tmp_path / "set")
    for _ in range(2):  # a second reading does not count twice
        assert torch.equal(gather(found).images, x[[0, 3]])
        assert [line.split(": ")[0].rsplit("/", 1)[1] for line in found.skipped] == [
            "000001.png",
            "000002.png",
            "bomb.png",
            "deep.tif",
        ]
    assert "floats from nan" in found.skipped[-1]


def test_a_set_of_which_nothing_can_be_read_is_one_line(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("no image")
    with pytest.raises(InputError, match=r"none of the 3 image files in .* such as 0\.png"):
        open_image_set(tmp_path)


def test_every_ending_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    x = images(5)
    for i, ending in enumerate(("png", "webp", "bmp", "tif", "TIFF")):
        picture = to_pil(x[i])
        if i == 1:
            picture.save(tmp_path / f"{i}.{ending}", lossless=True)
        else:
            picture.save(tmp_path / f"{i}.{ending}")
    to_pil(x[0]).save(tmp_path / "5.JPG", quality=100, subsampling=0)
    to_pil(x[0]).save(tmp_path / "6.gif")
    (tmp_path / "7.zip").touch()
    found = open_image_set(tmp_path)
    held = gather(found).images
    assert torch.equal(held[:5], x)
    assert (held[5].int() - x[0].int()).abs().float().mean() < 8
    assert found.notes == [f"left out of {tmp_path}: 1 .gif; 1 archive, not unpacked: 7.zip"]


def test_grey_among_colours_becomes_coloured_wherever_it_stands(tmp_path: Path) -> None:
    x = images(3)
    to_pil(x[0]).convert("L").save(tmp_path / "0.png")
    to_pil(x[1]).save(tmp_path / "1.png")
    deep = np.asarray(to_pil(x[2]).convert("L")).astype(np.uint16) << 8
    deep[0, 0] = 65535
    Image.fromarray(deep).save(tmp_path / "2.png")
    found = open_image_set(tmp_path, batch_size=2)
    assert found.shape == (3, 6, 5)
    held = gather(found).images
    assert (held[0] == held[0][:1]).all()
    assert torch.equal(held[1], x[1])
    assert torch.equal(held[2, 0, 1:], torch.from_numpy((deep >> 8).astype(np.uint8))[1:])


def test_the_judged_picture_is_the_one_that_training_sees(tmp_path: Path) -> None:
    """Sideways, transparent, of a palette, and deep: one door for all."""
    exif = Image.Exif()
    exif[0x112] = 6
    clear = to_pil(images(1)[0]).convert("RGBA")
    clear.putalpha(Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) * 8))
    clear.save(tmp_path / "0.png")
    clear.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    clear.convert("PA").save(tmp_path / "2.tif")
    clear.convert("LA").save(tmp_path / "3.png")
    found, source = open_image_set(tmp_path), open_source(tmp_path, split="all")
    held, transform = gather(found).images, Transform(size=(6, 5), crop="none")
    assert found.shape == (3, 6, 5)
    for row in range(4):
        assert torch.equal(held[row], transform(source.image(row)))
    assert torch.equal(held[0], held[1])


def test_sizes_must_agree_within_a_folder_and_are_known_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", [images(2)])
    Image.new("RGB", (9, 8)).save(tmp_path / "set" / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png is 8 x 9, 000000\.png 6 x 5 .height x width"):
        open_image_set(tmp_path / "set")


def test_missing_and_empty_sets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_image_set(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds no image file; name"):
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
def test_other_layouts_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_image_set(tmp_path / "a.npz")


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", [images(50)])
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read"):
        open_image_set(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_in_fortrans_order_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    x = images(23)
    pixels = np.asfortranarray(x.permute(0, 2, 3, 1).numpy())
    save(tmp_path / "A.NPZ", pixels, np.arange(23))
    os.rename(tmp_path / "A.NPZ.npz", tmp_path / "A.NPZ")
    found = open_image_set(tmp_path / "A.NPZ", batch_size=4)
    for _ in range(2):
        held = gather(found)
        assert torch.equal(held.images, x)
        assert same_labels(held.labels, torch.arange(23))
    parts = [batch.images for batch in found.between(9, 14)]
    assert torch.equal(torch.cat(parts), x[9:14])


def npy(header: str, body: bytes) -> bytes:
    text = header.encode().ljust(118 - 10 * (len(header) % 2 == 9)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def header(shape: str, descr: str = "'|u1'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


WHOLE = npy(header("(2, 2, 2, 3)"), bytes(24))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"arr_0.npy": npy(header("(-2, 2, 2, 3)"), bytes(24))}, "do not fit"),
        ({"arr_0.npy": npy(header("(10**9, 2, 2, 3)"), bytes(24))}, "cannot read|do not fit"),
        ({"arr_0.npy": npy(header("(1000000000000, 64, 64, 3)"), bytes(24))}, "do not fit"),
        ({"arr_0.npy": npy(header("(0, 0, 0, 3)"), b"")}, "0 images"),
        ({"arr_0.npy": npy(header("(1, 0, 4, 3)"), b"")}, "0 pixels"),
        ({"arr_0.npy": npy(header("(" * 90), b"")}, "cannot read"),
        ({"arr_0.npy": npy(header("(3,)", "'|O'"), b"cos\nsystem\n")}, "do not fit|uint8"),
        ({"arr_0.npy": b"no array"}, "cannot read"),
        ({"arr_0.npy": b""}, "cannot read"),
        ({"arr_0.npy": WHOLE[:-3]}, "do not fit"),
        ({"arr_0.npy": WHOLE, "arr_1.npy": npy(header("(2,)", "'|O'"), bytes(16))}, "labels"),
        ({"arr_0.npy": WHOLE, "arr_1.npy": npy(header("(-2,)", "'<i8'"), bytes(16))}, "do not fit"),
        ({"arr_0.npy": WHOLE, "arr_1.npy": b"\x93NUMPY\x09\x00"}, "cannot read"),
    ],
)
def test_hostile_headers_are_one_line(tmp_path: Path, members: dict[str, bytes], said: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=said):
        open_image_set(tmp_path / "a.npz")


def test_a_file_that_unpacks_to_nothing_but_size_is_refused(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("arr_0.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (300, 512, 512, 3)}
        )
        for _ in range(300):
            member.write(bytes(512 * 512 * 3))
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"unpacks from .* to 235,929,.* which no images do"):
        open_image_set(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    x, stream = images(6), np.random.default_rng(0)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x.permute(0, 2, 3, 1).contiguous().numpy(), np.arange(6))
        whole = (tmp_path / "a.npz").read_bytes()
        for trial in range(200):
            damaged = bytearray(whole)
            for place in stream.integers(0, len(whole), 1 + trial % 4):
                damaged[place] = stream.integers(256)
            cut = stream.integers(len(whole)) if trial % 3 == 0 else None
            (tmp_path / "a.npz").write_bytes(damaged[:cut])
            with contextlib.suppress(InputError):  # anything else escapes and fails
                assert len(gather(open_image_set(tmp_path / "a.npz")).images)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", [images(3)])
    before = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(InputError, match="one set needs one shape"):
        write_npz(tmp_path / "a.npz", [images(3), images(3, height=7)])
    with pytest.raises(InputError, match="at least 1"):
        write_npz(tmp_path / "a.npz", [])
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_nothing_is_written_over_a_used_folder_or_an_odd_name(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="but no image set"):
        write_folder(tmp_path, [images(1)])
    with pytest.raises(InputError, match=r"must end in \.npz"):
        write_npz(tmp_path / "a.zip", [images(1)])
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize("kind", ["a.npz", "deflated.npz", "folder"])
def test_any_range_can_be_read_alone(tmp_path: Path, kind: str) -> None:
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


def test_float_batches_are_refused() -> None:
    with pytest.raises(InputError, match="to_uint8"):
        list(as_batches([images(2).float()]))
