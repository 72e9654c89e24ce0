"""A place that will not do is refused before the work, and nothing is left there."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path

import pytest
from forks import as_nobody, as_root, let_others_in

from unmask.errors import InputError
from unmask.files.folders import as_place, beside, check_file, check_folder, fates, visible


def refused_folder(path: Path) -> str:
    """The line that refuses a folder."""
    with pytest.raises(InputError) as caught:
        check_folder(path, "run")
    return str(caught.value)


def refused_file(path: Path) -> str:
    """The line that refuses a file."""
    with pytest.raises(InputError) as caught:
        check_file(path, "report")
    return str(caught.value)


def test_free_places_are_left_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("new"), tmp_path, tmp_path / "a" / "b" / "c", Path("x" * 255)):
        check_folder(folder, "run")
        check_file(folder / "r.json", "report")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert "is a file" in refused_folder(tmp_path / "file")
    assert "a link to nothing" in refused_folder(tmp_path / "dangling")
    assert "holds 'dangling' but no run" in refused_folder(tmp_path)
    assert f"{tmp_path / 'file'} is no folder" in refused_folder(tmp_path / "file" / "a" / "b")
    assert f"{tmp_path / 'file'} is no folder" in refused_file(tmp_path / "file" / "r.json")
    assert "is a folder; name a file in it for the report" in refused_file(tmp_path)
    check_file(tmp_path / "file", "report")
    check_file(tmp_path / "dangling", "report")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("long", ["n" * 256, "ö" * 128, "x" * 5000])
def test_long_names_are_refused_wherever_they_stand(tmp_path: Path, long: str) -> None:
    for path in (tmp_path / long, tmp_path / "new" / long, tmp_path / long / "new"):
        for line in (refused_folder(path), refused_file(path)):
            assert "shorten it" in line
            assert "\n" not in line


def test_a_ring_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused_folder(tmp_path / "a")
    refused_file(tmp_path / "a" / "r.json")


def test_a_terminal_or_a_pipe_is_no_matter(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        check_file(path, "report")


@as_root
def test_rights_are_found_out_by_writing(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "old.json").touch(mode=0o400)

    def look() -> None:
        for path in (tmp_path / "new", tmp_path / "closed", tmp_path / "closed" / "new"):
            assert "Permission denied; nothing was done" in refused_folder(path)
            assert "Permission denied; nothing was done" in refused_file(path / "r.json")
        check_folder(tmp_path / "open" / "new", "run")
        check_file(tmp_path / "open" / "old.json", "report")

    (tmp_path / "open" / "old.json").chmod(0o400)
    assert as_nobody(look) == 0


def test_a_place_as_it_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert as_place("~/runs") == Path("/home/someone/runs")
    assert as_place(Path("~/runs")) == Path("/home/someone/runs")
    assert as_place(".") == Path()
    assert as_place("a b/[c]") == Path("a b/[c]")
    assert as_place("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    for empty in ("", " "):
        with pytest.raises(InputError, match="must not be empty"):
            as_place(empty)


def test_beside_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    for here in (Path(), Path("in/..")):
        assert beside(here, "-cache") == tmp_path / "run-cache"
    assert beside(Path("a/b"), "-cache") == Path("a/b-cache")
    with pytest.raises(InputError, match="name another"):
        beside(Path("/"), "-cache")


def test_what_was_there_is_told(tmp_path: Path) -> None:
    for name in ("b.json", "c", "d", "e", "f", "a.png", ".hidden"):
        (tmp_path / name).touch()
    before = visible(tmp_path)
    assert fates(before, ["a.png", "b.json", "z"]) == [
        "replaced what an earlier command wrote: a.png, b.json",
        "there before, and left as it was: c, d, e, …",
    ]
    assert fates([], ["a"]) == []
    assert visible(tmp_path / "absent") == []


def test_a_full_disk_is_found_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, *data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(InputError, match=r"cannot write .*new: No space left .*; nothing was done"):
        check_folder(tmp_path / "new", "run")
