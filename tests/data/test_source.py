from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import as_nobody, as_root, let_others_in
from tiny_data import pixels, png, write_files, write_idx, write_shards, write_tar

from unmask.data.source import EMBEDDED, open_source, summary
from unmask.errors import InputError


def test_official_split_is_used_and_stated(tmp_path: Path) -> None:
    root = write_shards(tmp_path)
    train, val = open_source(root), open_source(root, split="val")
    assert (len(train), len(val)) == (6, 3)
    assert val.label(0) == 0
    assert (np.asarray(val.image(2)) == pixels(8)).all()
    assert val.name == f"{tmp_path.name} (val)"
    assert val.split_rule.startswith("official")


def test_hashed_split_covers_every_image_once(tmp_path: Path) -> None:
    write_files(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(30)])
    sides = [open_source(tmp_path, split=side, val_share=0.3) for side in ("train", "val")]
    keys = [source.key(i) for source in sides for i in range(len(source))]
    assert len(keys) == len(set(keys)) == 60
    assert 6 < len(sides[1]) < 32
    for source in sides:
        assert source.class_names == ("a", "b")
        assert "0.3" in source.split_rule
        assert all(source.label(i) == "ab".index(source.key(i)[0]) for i in range(len(source)))
    assert len(open_source(tmp_path, split="all")) == 60


def test_each_kind_is_recognised(tmp_path: Path) -> None:
    write_files(tmp_path / "flat", ["0.png"])
    (tmp_path / "idx").mkdir()
    write_idx(tmp_path / "idx" / "t10k-images-idx3-ubyte.gz", np.zeros((2, 3, 3)))
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shards(shards)
    assert len(open_source(tmp_path / "flat", split="all")) == 1
    assert len(open_source(tmp_path / "idx", split="all")) == 2
    assert len(open_source(shards / "val-000000.tar", split="all")) == 3


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no images of a known kind"):
        open_source(tmp_path)
    (tmp_path / "one.png").write_bytes(png(1))
    with pytest.raises(InputError, match="is a file of unknown kind"):
        open_source(tmp_path / "one.png")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.json").write_text("{}")
    with pytest.raises(InputError, match="is a latent cache"):
        open_source(tmp_path / "cache")
    with pytest.raises(InputError, match="unknown split 'vall'; did you mean"):
        open_source(tmp_path, split="vall")  # type: ignore[arg-type]


def test_an_empty_side_is_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["0.png"])
    with pytest.raises(InputError, match=r"the val side of .* is empty .*1 images in all"):
        open_source(tmp_path, split="val", val_share=1e-9)


def test_embedded_data_set() -> None:
    train, val = (open_source("fashion-mnist", split=side) for side in ("train", "val"))
    assert (len(train), len(val)) == (8000, 2000)
    assert train.class_names[8] == "Bag"
    assert (train.image(0).size, train.image(0).mode) == ((28, 28), "L")
    assert [train.label(i) for i in range(6)] == [9, 0, 0, 3, 0, 2]  # the published order
    assert [val.label(i) for i in range(4)] == [9, 2, 1, 1]
    assert (EMBEDDED["fashion-mnist"] / "LICENSE.txt").exists()


def test_embedded_avatars() -> None:
    train, val = (open_source("avatars", split=side) for side in ("train", "val"))
    assert (len(train), len(val), len(train.class_names)) == (5000, 500, 10)
    assert (train.class_names[8], val.class_names) == ("pixel art", train.class_names)
    assert (train.image(0).size, train.image(0).mode) == ((64, 64), "RGB")
    assert [train.label(i) for i in range(12)] == [*range(10), 0, 1]  # a seed of each class in turn
    assert val.split_rule.startswith("official")


def test_a_folder_of_an_embedded_name_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "fashion-mnist", ["a/0.png", "b/1.png"])
    embedded = open_source("fashion-mnist")
    assert (len(embedded), embedded.notes[-1]) == (
        8000,
        "fashion-mnist is the set that travels along, not ./fashion-mnist",
    )
    for own in ("./fashion-mnist", Path("fashion-mnist"), tmp_path / "fashion-mnist"):
        assert len(open_source(own, split="all")) == 2


@pytest.mark.parametrize("near", ["fashion-mnist-10k", "Fashion-MNIST", "mnist", "fashion"])
def test_a_name_that_is_nearly_embedded_is_suggested(near: str) -> None:
    with pytest.raises(InputError, match=f"{near} does not exist; .* 'fashion-mnist'"):
        open_source(near)


def test_a_path_that_does_not_exist_is_told_the_embedded_names() -> None:
    with pytest.raises(InputError, match=r"does not exist; give a folder .*: known: avatars"):
        open_source("/none/such")


@as_root
def test_a_place_that_may_not_be_looked_at_is_one_line(tmp_path: Path) -> None:
    write_files(tmp_path / "d", ["a/0.png", "b/1.png"])
    let_others_in(tmp_path)
    (tmp_path / "d").chmod(0)

    def look() -> Any:
        for place in ("d", "d/a"):
            with pytest.raises(
                InputError, match=r"^\S+ cannot be (read|listed) .Permission denied"
            ):
                open_source(tmp_path / place)

    assert as_nobody(look) == 0


def test_numbers_and_what_is_left_out_are_told(tmp_path: Path) -> None:
    write_files(tmp_path / "d", [f"{c}/{i}.png" for c in "ab" for i in range(30)])
    (tmp_path / "d" / "a" / "x.gif").touch()
    train, every = (open_source(tmp_path / "d", split=split) for split in ("train", "all"))
    held_out = 60 - len(train)
    numbers, left = summary(train)
    assert numbers.startswith(f"d (train): 60 images of 2 classes, {60 - held_out} trained on, ")
    assert f"{held_out} held out; no official split" in numbers
    assert left == f"left out of {tmp_path / 'd'}: 1 .gif"
    assert summary(every)[0].startswith("d (all): 60 images of 2 classes, all trained on")
    assert summary(train, title="D", counted=False)[0] == f"D: {train.split_rule}"
    assert summary(every, counted=False)[0] == "d (all): all of them"
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shards(shards)
    assert (
        "9 images of 2 classes, 6 trained on, 3 held out; official"
        in summary(open_source(shards))[0]
    )


def test_pictures_beside_shards_are_told(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_files(tmp_path, ["extra/0.png"])
    assert any("image files such as extra/0.png" in line for line in summary(open_source(tmp_path)))


def test_what_may_be_meant_is_named(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    write_tar(tmp_path / "part" / "0.tar", [("1.png", png(1))])
    with pytest.raises(InputError, match=r"but part in it does \(give that\)"):
        open_source(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"but a\.tar\.gz, which is compressed \(unpack it"):
        open_source(tmp_path)


@pytest.mark.parametrize("stray", ["ILSVRC2012_img_train.tar", "backup.tar", "old.parquet"])
def test_a_stray_archive_beside_pictures_is_told_and_not_read(tmp_path: Path, stray: str) -> None:
    write_files(tmp_path, ["a/0.png", "a/1.png", "b/2.png"])
    (tmp_path / stray).write_bytes(b"whatever")
    source = open_source(tmp_path, split="all")
    assert (len(source), source.class_names) == (3, ("a", "b"))
    assert f"1 archive, not unpacked: {stray}" in summary(source)[-1]


@pytest.mark.parametrize("name", ["000.tar", "shard-7.tar", "train.tar", "Val_a.tar"])
def test_shards_beside_a_picture_are_the_data_set(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, [("0.png", png(0)), ("1.png", png(1))])
    write_files(tmp_path, ["preview.png"])
    assert len(open_source(tmp_path, split="all")) == 2


def test_hidden_archives_are_litter(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "._train-000000.tar").write_bytes(b"of another system")
    assert len(open_source(tmp_path)) == 6
