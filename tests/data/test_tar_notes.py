"""What was found in tars is kept beside them, and is never older than they are."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from forks import as_nobody, as_root, forked, let_others_in, status
from tiny_data import png, write_shards, write_tar

from unmask.data import webdataset
from unmask.data.split import Split
from unmask.data.webdataset import NOTES, TarImages
from unmask.errors import InputError

Facts = list[tuple[str, int | None, bytes]]


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own folder of caches, where a note goes that cannot lie beside its tar."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def facts(folder: Path, side: Split = "all") -> Facts:
    """All that a newly started process sees of tars."""
    webdataset._index.cache_clear()
    images = TarImages(folder, side)
    rows = range(len(images))
    return [(images.key(row), images.label(row), images.content(row)) for row in rows]


def shards_in(folder: Path) -> Path:
    """A new folder of three tars."""
    folder.mkdir()
    return write_shards(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tars, whose contents are kept."""
    facts(shards_in(tmp_path / "shards"))
    return tmp_path / "shards"


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tars whose headers are read."""
    names: list[str] = []
    read = webdataset.index_files
    monkeypatch.setattr(
        webdataset, "index_files", lambda file: names.append(file.name) or read(file)
    )
    return names


def test_a_second_start_reads_no_header(folder: Path, indexed: list[str]) -> None:
    kept = [facts(folder, side) for side in ("train", "val", "all")]
    notes = {images.path: images.notes for images in [TarImages(folder, "all")]}
    assert indexed == []
    shutil.rmtree(folder / NOTES)
    assert [facts(folder, side) for side in ("train", "val", "all")] == kept
    assert {images.path: images.notes for images in [TarImages(folder, "all")]} == notes
    assert len(indexed) == len(set(indexed)) == len(list(folder.glob("*.tar")))


def test_what_is_not_used_is_told_again(tmp_path: Path, indexed: list[str]) -> None:
    write_tar(tmp_path / "a.tar", [("x/1.png", png(1)), ("y/2.png", png(2)), ("3.txt", b"")])
    write_tar(tmp_path / "b.tar", [("n\udcff.txt", b"")])  # no image, a name that is no UTF-8
    first = TarImages(tmp_path, "all")
    webdataset._index.cache_clear()
    assert TarImages(tmp_path, "all").notes == first.notes
    assert "2 .txt files" in first.notes[0]
    assert sorted(indexed) == ["a.tar", "b.tar"]


def test_a_changed_tar_alone_is_read_again(folder: Path, indexed: list[str]) -> None:
    changed = folder / "train-000001.tar"
    changed.write_bytes(changed.read_bytes().replace(b".png", b".gif"))
    os.utime(changed, ns=(0, 12345))  # of the same size, and older
    with pytest.raises(InputError, match=changed.name):
        facts(folder)  # the check sum of a header is of the name that it had
    write_tar(changed, [("other.png", png(99)), ("other.cls", b"1")])
    assert (f"{changed.name}/other.png", 1, png(99)) in facts(folder)
    assert set(indexed) == {changed.name}
    indexed.clear()
    facts(folder)
    assert indexed == []


@pytest.mark.parametrize("way", ["empty", "cut", "flipped", "folder", "another format"])
def test_a_damaged_note_is_made_again_in_silence(
    folder: Path, way: str, indexed: list[str]
) -> None:
    before, notes = facts(folder), sorted((folder / NOTES).iterdir())
    whole = {note: note.read_bytes() for note in notes}
    draw = random.Random(way)
    for note, content in whole.items():
        place = draw.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        damaged = {"empty": b"", "cut": content[:place], "flipped": flipped}.get(way, b"[[]]")
        if way == "folder":
            note.unlink()
            note.mkdir()
        else:
            note.write_bytes(damaged)
    assert facts(folder) == before
    assert len(indexed) == len(notes)
    assert way == "folder" or {note: note.read_bytes() for note in notes} == whole


@as_root
def test_a_folder_of_others_is_remembered_in_the_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, own = shards_in(tmp_path / "shards"), tmp_path / "own"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    let_others_in(shards)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    assert as_nobody(lambda: facts(shards)) == 0
    assert not (shards / NOTES).exists()
    assert len(list(own.glob(f"unmask/{NOTES[1:]}-*/*.json"))) == len(list(shards.glob("*.tar")))

    def second() -> None:
        monkeypatch.setattr(webdataset, "index_files", lambda file: 1 / 0)
        facts(shards)

    assert as_nobody(second) == 0


def test_without_any_place_the_tars_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_in(tmp_path / "shards")
    (shards / NOTES).write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(shards / NOTES))
    assert facts(shards) == facts(shards)


def test_processes_that_start_together_share_the_work(tmp_path: Path) -> None:
    shards, logs, count = tmp_path / "shards", tmp_path / "logs", 40
    shards.mkdir()
    logs.mkdir()
    for i in range(count):
        write_tar(shards / f"{i:02d}.tar", [("1.png", png(i))])
    read = webdataset.index_files

    def slow(file: Path) -> object:
        time.sleep(0.02)
        (logs / f"{os.getpid()}-{file.name}").touch()
        return read(file)

    def start() -> None:
        webdataset.index_files = slow  # type: ignore[assignment]
        assert [content for *_, content in facts(shards)] == [png(i) for i in range(count)]

    assert [status(pid) for pid in [forked(start) for _ in range(4)]] == [0] * 4
    assert count <= len(list(logs.iterdir())) < 2 * count, "four that read all make 4 * count"
    assert len(list((shards / NOTES).iterdir())) == count


def test_what_a_killed_process_left_is_cleared(folder: Path) -> None:
    left = folder / NOTES / ".a.tar.json.gone.1.partial"
    left.touch()
    os.utime(left, (0, 0))
    facts(folder)
    assert not left.exists()
