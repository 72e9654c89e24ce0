from __future__ import annotations

import io
import os
import pickle
import random
import resource
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_data import pixels, png, write_shards, write_tar

from unmask.data.split import Split
from unmask.data.webdataset import TarImages
from unmask.errors import InputError


def opened(
    file: Path, members: Sequence[tuple[str, bytes | int]], side: Split = "all"
) -> TarImages:
    write_tar(file, [(name, c if isinstance(c, bytes) else png(c)) for name, c in members])
    return TarImages(file, side)


def shown(images: TarImages) -> list[int]:
    """Which of the numbered pictures each row is."""
    return [int(np.asarray(images.image(row))[0, 0, 0]) for row in range(len(images))]


def test_sides_labels_and_random_access(tmp_path: Path) -> None:
    root = write_shards(tmp_path)
    train, val = (TarImages(root, side) for side in ("train", "val"))
    assert (len(train), len(val), len(TarImages(root, "all"))) == (6, 3, 9)
    for row in (5, 0, 4, 1, 3, 2):
        assert (np.asarray(train.image(row)) == pixels(row)).all()
        assert train.label(row) == row % 2
    assert val.key(1) == "val-000000.tar/007.png"
    assert (np.asarray(val.image(1)) == pixels(7)).all()
    assert train.class_names == ("even", "odd")
    assert "val-000000.tar" in TarImages.official_split(root)
    assert train.notes == []


def test_one_tar_with_json_labels_and_folders(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | int]] = [
        ("a/1.json", b'{"label": 2}'),
        ("a/1.png", 1),
        ("b/1.png", 2),
    ]
    images = opened(tmp_path / "some.tar", [*members, ("b/1.json", b'{"label": 0.0, "x": 1}')])
    assert [images.label(i) for i in range(2)] == [2, 0]
    assert (np.asarray(images.image(1)) == pixels(2)).all()
    assert images.class_names == ("0", "1", "2")
    assert images.notes == ["1 of the 3 classes have no image"]
    assert not TarImages.official_split(tmp_path / "some.tar")


def test_unlabelled(tmp_path: Path) -> None:
    images = opened(tmp_path / "x.tar", [("1.png", 1), ("1.json", b'{"caption": "a"}')])
    assert images.class_names == ()
    assert len(TarImages(tmp_path / "x.tar", "val")) == len(TarImages(tmp_path / "x.tar", "all"))


def test_another_process_opens_its_own_files(tmp_path: Path) -> None:
    images = TarImages(write_shards(tmp_path), "train")
    images.image(0)
    content = pickle.dumps(images)
    assert len(content) < 5000
    assert (np.asarray(pickle.loads(content).image(4)) == pixels(4)).all()


def test_content_and_stamp(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    images = opened(file, [("1.png", 1), ("2.png", 2)])
    assert [images.content(row) for row in range(2)] == [png(1), png(2)]
    assert images.stamp(0) != images.stamp(1)
    again = opened(file, [("1.png", 1), ("2.png", 2)])
    os.utime(file, ns=(0, 0))
    assert TarImages(file, "all").stamp(0) != again.stamp(0)


@pytest.mark.parametrize("order", range(6))
def test_the_picture_of_a_sample_is_never_its_mask(tmp_path: Path, order: int) -> None:
    members: list[tuple[str, bytes | int]] = [
        ("0.png", 1),
        ("0.seg.png", 2),
        ("0.cls", b"1"),
        ("1.jpg", 3),
        ("1.depth.PNG", 4),
    ]
    random.Random(order).shuffle(members)
    images = opened(tmp_path / "x.tar", [*members, ("1.cls", b"0")])
    found = {images.key(row): (image, images.label(row)) for row, image in enumerate(shown(images))}
    assert found == {"x.tar/0.png": (1, 1), "x.tar/1.jpg": (3, 0)}
    assert images.notes == ["not used of the tars: 2 further images of a key"]


@pytest.mark.parametrize(
    "pair",
    [("a.jpg", "a.png"), ("a.png", "a.png"), ("a.PNG", "a.png"), ("b/a.webp", "b/a.bmp"),
     ("22.00.png", "22.01.png"), ("a.left.png", "a.right.png")],
)  # fmt: skip
def test_two_images_that_cannot_be_told_apart_are_refused_by_name(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    members: list[tuple[str, bytes | int]] = [("0.png", 0), *((name, 1) for name in pair)]
    with pytest.raises(InputError) as caught:
        opened(tmp_path / "x.tar", members)
    assert all(name in str(caught.value) for name in pair)
    assert "\n" not in str(caught.value)


def test_dotted_names_with_labels_of_their_own_are_images_of_their_own(tmp_path: Path) -> None:
    labels = [(f"22.{i:02d}.cls", b"%d" % (i % 2)) for i in range(8)]
    images = opened(tmp_path / "x.tar", [*((f"22.{i:02d}.png", i) for i in range(8)), *labels])
    assert shown(images) == list(range(8))
    assert [images.label(i) for i in range(8)] == [i % 2 for i in range(8)]
    (alone,) = shown(opened(tmp_path / "y.tar", [("1.image.png", 5), ("1.cls", b"0")]))
    assert alone == 5


def test_case_and_folders_keep_keys_apart(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | int]] = [
        ("a.png", 1),
        ("A.png", 2),
        ("x/a.png", 3),
        ("./a.jpg", 4),
    ]
    assert shown(opened(tmp_path / "x.tar", members)) == [1, 2, 3, 4]


def test_links_inside_a_tar(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    links = [
        ("2.png", tarfile.LNKTYPE, "a/1.png"),
        ("b/3.png", tarfile.SYMTYPE, "6.png"),
        ("b/6.png", tarfile.SYMTYPE, "../2.png"),
        ("4.png", tarfile.SYMTYPE, "nowhere.png"),
        ("5.png", tarfile.SYMTYPE, "5.png"),
        ("2.cls", tarfile.LNKTYPE, "a/1.cls"),
        ("b/3.cls", tarfile.SYMTYPE, "../a/1.cls"),
        ("b/6.cls", tarfile.SYMTYPE, "../a/1.cls"),
    ]
    with tarfile.open(file, "w") as tar:
        for name, content in (("a/1.png", png(7)), ("a/1.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, kind, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    images = TarImages(file, "all")
    assert shown(images) == [7, 7, 7, 7]
    assert [images.label(row) for row in range(4)] == [1, 1, 1, 1]
    assert images.key(2) == "x.tar/b/3.png"
    assert images.notes[-1] == "not used of the tars: 2 links that lead nowhere, or no files"


def test_every_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    write_tar(file, [m for i in range(6) for m in ((f"{i}.png", png(i)), (f"{i}.cls", b"1"))])
    whole = file.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # the first block that only zeros follow
    dice = random.Random(5)
    for cut in [*range(512, end + 1, 512), *(dice.randrange(1, end) for _ in range(60))]:
        file.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"x\.tar (ends inside|has no end mark|cannot be rea)"):
            TarImages(file, "all")
    file.write_bytes(whole[: end + 512])
    assert len(TarImages(file, "all")) == 6


def test_tars_one_after_the_other_are_read_to_the_end(tmp_path: Path) -> None:
    parts = []
    for i in range(3):
        write_tar(tmp_path / "part", [(f"{i}.png", png(i))])
        parts.append((tmp_path / "part").read_bytes())
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    assert shown(TarImages(tmp_path / "x.tar", "all")) == [0, 1, 2]
    end = len(parts[1].rstrip(b"\0")) // 512 * 512 + 512
    (tmp_path / "x.tar").write_bytes(parts[0] + parts[1][:end])
    with pytest.raises(InputError, match=r"x\.tar has no end mark"):  # of the second
        TarImages(tmp_path / "x.tar", "all")
    (tmp_path / "x.tar").write_bytes(parts[0] + b"what is this" * 100)
    with pytest.raises(InputError, match=r"x\.tar cannot be read"):
        TarImages(tmp_path / "x.tar", "all")


def test_a_damaged_header_in_the_middle_loses_nothing_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    write_tar(file, [(f"{i}.png", png(i)) for i in range(6)])
    whole = file.read_bytes()
    for content in (whole[:2048] + bytes(512) + whole[2560:], whole[:2048] + b"?" + whole[2049:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            TarImages(file, "all")


def test_labels_are_whole_numbers_or_names(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    for label in (b"1.5", b"", b"nan", b"1e3", b"\xff\xfe", b"a\nb", b"x" * 300):
        with pytest.raises(InputError, match=r"x\.tar: 1\.cls"):
            opened(file, [("1.png", 1), ("1.cls", label)])
    for label in (b"1.5", b"true", b"[1, 0]", b"{}", b"1e400", b'"1.5"'):
        with pytest.raises(InputError, match=r"x\.tar: 1\.json"):
            opened(file, [("1.png", 1), ("1.json", b'{"label": %s}' % label)])
    with pytest.raises(InputError, match="nested too deeply"):
        opened(file, [("1.png", 1), ("1.json", b"[" * 100_000)])
    with pytest.raises(InputError, match=r"1\.json says 2, another member of its key 1"):
        opened(file, [("1.png", 1), ("1.cls", b"1"), ("1.json", b'{"label": 2}')])


@pytest.mark.parametrize("label", [10**12, 30_000_000, 10**30, -5])
def test_labels_that_count_no_classes(tmp_path: Path, label: int) -> None:
    with pytest.raises(InputError, match=r"label|neither"):
        opened(tmp_path / "x.tar", [("1.png", 1), ("1.cls", b"%d" % label)])


def test_class_names_are_labels_too(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | int]] = [
        ("1.png", 1),
        ("1.cls", b"zebra\n"),
        ("2.png", 2),
        ("2.cls", "do\u0308g".encode()),
    ]
    images = opened(tmp_path / "x.tar", members)
    assert images.class_names == ("d\u00f6g", "zebra")
    assert [images.label(0), images.label(1)] == [1, 0]
    (tmp_path / "classes.json").write_text('["zebra", "cat", "d\u00f6g"]', encoding="utf8")
    images = TarImages(tmp_path / "x.tar", "all")
    assert [images.label(0), images.label(1)] == [0, 2]
    (tmp_path / "classes.json").write_text('["zebra", "cat"]')
    with pytest.raises(InputError, match=r"class 'd\u00f6g', which classes\.json does not name"):
        TarImages(tmp_path / "x.tar", "all")
    with pytest.raises(InputError, match="label 0 and the label 'zebra'"):
        opened(tmp_path / "y.tar", [*members[:2], ("2.png", 2), ("2.cls", b"0")])


def test_both_sides_have_the_classes_of_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", [("1.png", png(1)), ("1.cls", b"b")])
    write_tar(tmp_path / "val-0.tar", [("1.png", png(1)), ("1.cls", b"a")])
    sides = [TarImages(tmp_path, side) for side in ("train", "val")]
    assert [side.class_names for side in sides] == [("a", "b"), ("a", "b")]
    assert [side.label(0) for side in sides] == [1, 0]
    assert TarImages(tmp_path, "all").labels == [1, 0]


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    members: list[tuple[str, bytes | int]] = [
        ("cat/1.png", 1),
        ("dog/2.png", 2),
        ("cat/1.txt", b"a cat"),
        ("3.cls", b"1"),
    ]
    (folders, unused) = opened(tmp_path / "x.tar", members).notes[::-1]
    assert "2 folders inside the tars (cat, dog, …)" in folders
    assert unused == "not used of the tars: 1 .txt files, 1 labels without an image"
    for name in ("train-0.tar", "val-0.tar", "extra.tar"):
        write_tar(tmp_path / name, [("1.png", png(1))])
    (tmp_path / "x.tar").unlink()
    assert "extra.tar" in TarImages(tmp_path, "train").notes[0]


def test_damaged_and_incomplete(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with pytest.raises(InputError, match=r"1 of 2 images of .* lack a label"):
        opened(file, [("1.png", 1), ("1.cls", b"0"), ("2.png", 2)])
    file.write_bytes(b"no tar" * 200)
    with pytest.raises(InputError, match=r"x\.tar cannot be read as an uncompressed tar"):
        TarImages(file, "all")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"x\.tar\.gz is compressed"):
        TarImages(tmp_path / "x.tar.gz", "all")


def test_a_tar_that_shrinks_or_goes_makes_unreadable_images(tmp_path: Path) -> None:
    images = opened(tmp_path / "x.tar", [("1.png", 1)])
    os.truncate(tmp_path / "x.tar", 520)
    with pytest.raises(InputError, match=r"x\.tar/1\.png .*shorter than it was"):
        images.image(0)
    images = opened(tmp_path / "y.tar", [("1.png", 1)])
    (tmp_path / "y.tar").unlink()
    with pytest.raises(InputError, match=r"y\.tar/1\.png .*No such file"):
        images.image(0)


def test_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    for i in range(300):
        write_tar(tmp_path / f"{i:03d}.tar", [("1.png", png(i % 256))])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        images = TarImages(tmp_path, "all")
        assert shown(images) == [i % 256 for i in range(300)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
