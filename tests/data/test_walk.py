from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from forks import as_nobody, as_root, let_others_in
from tiny_data import png, write_files

from unmask.data.walk import Walk
from unmask.text import some


def listed(root: Path) -> tuple[list[str], str]:
    walk = Walk(root)
    return sorted(walk.pictures()), "; ".join(walk.left_out())


def test_pictures_of_all_depths_and_endings(tmp_path: Path) -> None:
    names = ["a/0.png", "a/deep/er/1.PNG", "2.jpeg", "b c/3.JPG", "b c/4.webp", "[x]/5.tiff"]
    write_files(tmp_path, [*names, "b c/6.bmp", "ö/7.tif"])
    assert listed(tmp_path) == (sorted([*names, "b c/6.bmp", "ö/7.tif"]), "")


def test_what_is_not_read_is_counted_and_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/0.png"])
    for name in (
        "a/1.gif",
        "b/2.GIF",
        "notes.txt",
        "README",
        "train.tar.gz",
        "b/x.zip",
        "c.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files, said = listed(tmp_path)
    assert files == ["a/0.png"]
    for part in ("2 .gif", "1 .txt", "1 without an ending"):
        assert part in said
    assert "3 archives, not unpacked: b/x.zip, c.parquet, train.tar.gz" in said


def test_many_endings_are_summed(tmp_path: Path) -> None:
    write_files(tmp_path, ["0.png"])
    for i in range(40):
        (tmp_path / f"x.{i}a").touch()
    assert listed(tmp_path)[1].endswith("34 other files")


@pytest.mark.parametrize(
    "litter",
    [
        ".hidden.png",
        ".git/0.png",
        "._0.png",
        "__MACOSX/0.png",
        "Thumbs.db",
        ".DS_Store",
        "desktop.ini",
        "@eaDir/0.png",
        "$RECYCLE.BIN/0.png",
        "lost+found/0.png",
        "System Volume Information/0.png",
        "classes.json",
    ],
)
def test_hidden_files_and_the_litter_of_systems_are_passed_over(
    tmp_path: Path, litter: str
) -> None:
    write_files(tmp_path, ["cat/0.png", litter, f"cat/{litter}"])
    files, said = listed(tmp_path)
    assert files == ["cat/0.png"]
    assert said == ""


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "real", ["cat/0.png", "dog/1.png"])
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "cat").symlink_to("../real/cat")
    (tmp_path / "links" / "2.png").symlink_to("../real/dog/1.png")
    assert listed(tmp_path / "links") == (["2.png", "cat/0.png"], "")


@pytest.mark.parametrize("target", [".", "..", "../b", "../a/deep", "deep"])
def test_loops_of_links_multiply_nothing(tmp_path: Path, target: str) -> None:
    write_files(tmp_path, ["a/0.png", "a/deep/1.png", "b/2.png"])
    for name in ("loop", "deep/other"):
        (tmp_path / "a" / name).symlink_to(target)
    (tmp_path / "b" / "back").symlink_to("../a")
    files, said = listed(tmp_path)
    assert files == ["a/0.png", "a/deep/1.png", "b/2.png"]
    assert "there under another name: " in said


def test_a_folder_keeps_its_own_name_where_links_lead_to_it(tmp_path: Path) -> None:
    write_files(tmp_path, ["zoo/cat/0.png", "inner/1.png"])
    (tmp_path / "cat").symlink_to("zoo/cat")
    (tmp_path / "inner" / "zoo").symlink_to("../zoo")
    files, said = listed(tmp_path)
    assert files == ["inner/1.png", "zoo/cat/0.png"]
    assert said == "2 folders that are there under another name: cat, inner/zoo"


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/0.png"])
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe.png")
    assert listed(tmp_path) == (
        ["a/0.png"],
        "3 links that lead nowhere: gone.png, pipe.png, self",
    )


@as_root
def test_folders_that_cannot_be_listed_are_named(tmp_path: Path) -> None:
    write_files(tmp_path, ["a/0.png", "b/1.png", "b/deep/2.png"])
    (tmp_path / "link").symlink_to("b/deep")
    let_others_in(tmp_path)
    (tmp_path / "b").chmod(0)

    def look() -> Any:
        files, said = listed(tmp_path)
        assert files == ["a/0.png"]
        assert "1 folder that cannot be listed: b (Permission denied)" in said
        assert "1 link that leads nowhere: link" in said

    assert as_nobody(look) == 0


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write(png(0))
    (name,) = listed(tmp_path)[0]
    assert os.fsencode(name) == b"\xff\xfe.png"


def test_very_deep_folders(tmp_path: Path) -> None:
    name = "/".join(["d"] * 300) + "/0.png"
    write_files(tmp_path, [name])
    assert listed(tmp_path)[0] == [name]


def test_the_root_alone(tmp_path: Path) -> None:
    write_files(tmp_path, ["0.png", "a/1.png", "b/2.png"])
    (tmp_path / "c").symlink_to("a")
    walk = Walk(tmp_path)
    walk.here()
    assert (walk.files, walk.tops) == (["0.png"], ["a", "b", "c"])


def test_examples_are_few() -> None:
    assert some(["c", "a"]) == "a, c"
    assert some("edcba") == "a, b, c, …"
