"""What is written is whole or not there, belongs to its user, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from disk import watched
from forks import as_nobody, as_root, forked, let_others_in, status
from PIL import Image
from safetensors.torch import save_file

from unmask.errors import InputError
from unmask.files import durable
from unmask.files.durable import ASIDE, aside_of, output, output_folder, outputs, replace_file

WRITERS: dict[str, Callable[[Path], object]] = {
    "plain": lambda path: path.write_bytes(b"new"),
    "safetensors": lambda path: save_file({"a": torch.zeros(3)}, path),
    "torch": lambda path: torch.save({"a": 1}, path),
    "picture": lambda path: Image.new("L", (3, 3)).save(path, format="PNG"),
    "numpy": lambda path: np.lib.format.open_memmap(path, "w+", np.float32, (3,)).flush(),
}


def fail_half_way(path: Path, error: BaseException) -> None:
    """Write half of a file and raise."""
    with output(path) as aside:
        aside.write_text("half")
        raise error


def die() -> None:
    """As the system's killer has it."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the process's umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_permissions_are_those_of_the_process(
    tmp_path: Path, writer: str, mask: int, umask: Callable[[int], int]
) -> None:
    umask(mask)
    path = tmp_path / "deep" / "result"
    with output(path) as aside:
        WRITERS[writer](aside)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in path.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_killed_writer_leaves_the_older_file_and_the_next_one_clears_up(
    tmp_path: Path, writer: str
) -> None:
    path = tmp_path / "result"
    path.write_text("old")

    def write_half() -> None:
        with output(path) as aside:
            WRITERS[writer](aside)
            die()

    assert status(forked(write_half)) == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) > 1
    replace_file(tmp_path / "another", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["another", "result"]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "result"
    for error in (RuntimeError("x"), KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")):
        with pytest.raises((RuntimeError, KeyboardInterrupt, InputError)):
            fail_half_way(path, error)
        assert not list(tmp_path.iterdir())


def test_writers_that_live_are_left_alone(tmp_path: Path) -> None:
    """Of this machine by their process, of others by their age."""
    mine = aside_of(tmp_path / "mine")
    elsewhere = tmp_path / f".theirs.node7-1.4711{ASIDE}"
    older = tmp_path / f".older.node7-1.4711{ASIDE}"
    others = tmp_path / f".step-0000001{ASIDE}", tmp_path / ".hidden", tmp_path / f"name{ASIDE}"
    for path in (mine, elsewhere, older, *others):
        path.touch()
    os.utime(older, (0, 0))
    replace_file(tmp_path / "result", b"")
    assert not older.exists()
    assert all(path.exists() for path in (mine, elsewhere, *others))


def test_folders_that_dead_processes_left_are_cleared_too(tmp_path: Path) -> None:
    def write_half() -> None:
        with output_folder(tmp_path / "set") as aside:
            (aside / "0.png").touch()
            die()

    assert status(forked(write_half)) == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    with output_folder(tmp_path / "set") as aside:
        (aside / "in").mkdir()
        (aside / "in" / "0.png").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "in" / "0.png").exists()


def test_a_folder_that_fails_is_not_there(tmp_path: Path) -> None:
    def fail() -> None:
        with output_folder(tmp_path / "set") as aside:
            (aside / "0.png").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with output_folder(tmp_path / "set") as aside:
        (aside / "0.png").touch()
    assert (tmp_path / "set" / "0.png").exists()


def test_a_link_keeps_leading_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    replace_file(tmp_path / "link", b"one")
    replace_file(tmp_path / "link", b"two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"two"


def test_a_pipe_is_written_straight(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    replace_file(tmp_path / "pipe", b"whole")
    reader.join()
    assert read == [b"whole"]
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["x" * 255, "ö" * 127, "界" * 85, "a b", "[x]", "*", "\udcff\n"])
def test_any_name_that_the_file_system_takes_will_do(tmp_path: Path, name: str) -> None:
    with output(tmp_path / name) as aside:
        aside.write_text("whole")
    assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_refusal_names_the_path_the_reason_and_the_way_out(tmp_path: Path, number: int) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(InputError) as caught:
        fail_half_way(path, OSError(number, os.strerror(number)))
    line = str(caught.value)
    assert str(path) in line
    assert os.strerror(number) in line
    assert "the older one is whole" in line
    assert ("MiB free" in line) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "another folder" in line
    assert "\n" not in line
    assert path.read_text() == "old"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own is mounted, which only root may")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("writer", ["plain", "numpy", "picture"])
def test_a_full_disk_keeps_the_older_file(small_disk: Path, writer: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    large: dict[str, Callable[[Path], object]] = {
        "plain": lambda path: path.write_bytes(noise.tobytes()),
        "numpy": lambda path: np.savez(path.open("wb"), a=noise),
        "picture": lambda path: Image.fromarray(noise).save(path, format="PNG"),
    }
    path = small_disk / "result"
    path.write_text("old")
    full = r"result: No space left on device, \d MiB free there; the older one is whole; make room"
    with pytest.raises(InputError, match=full), output(path) as aside:
        large[writer](aside)
    assert path.read_text() == "old"
    assert [p.name for p in small_disk.iterdir()] == ["result"]


@as_root
def test_another_user_reads_what_was_written_and_clears_nothing_of_others(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    replace_file(tmp_path / "result", b"whole")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    aside_of(tmp_path / "shared" / "mine").touch()

    def look() -> None:
        assert (tmp_path / "result").read_bytes() == b"whole"
        with pytest.raises(InputError, match="Permission denied; the older one is whole; get the"):
            fail_half_way(tmp_path / "result", RuntimeError())
        assert durable.is_running(os.getppid())
        replace_file(tmp_path / "shared" / "theirs", b"")

    assert as_nobody(look) == 0
    assert len(list((tmp_path / "shared").iterdir())) == 2


@pytest.fixture
def deeds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    return watched(monkeypatch)


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, deeds: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "folder"
    with output(folder / "a") as aside:
        aside.write_bytes(b"a")
    assert deeds == [("wait", "aside"), ("rename", "a"), ("wait", "folder")]
    deeds.clear()
    replace_file(folder / "a", b"b")
    assert deeds == [("wait", "aside"), ("rename", "a"), ("wait", "folder")]


def test_all_of_several_files_are_on_the_disk_before_one_is_renamed(
    tmp_path: Path, deeds: list[tuple[str, str]]
) -> None:
    with outputs(tmp_path / "a", tmp_path / "b", named=tmp_path, intact="nothing") as asides:
        for aside in asides:
            aside.write_bytes(b"")
    waits = [("wait", "aside")] * 2
    assert deeds == [*waits, ("rename", "a"), ("rename", "b"), ("wait", tmp_path.name)]


def test_a_folder_is_on_the_disk_with_all_names_in_it_before_it_is_renamed(
    tmp_path: Path, deeds: list[tuple[str, str]]
) -> None:
    with output_folder(tmp_path / "set") as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "b").write_bytes(b"")
        (aside / "c").write_bytes(b"")
    inside = [("wait", "c"), ("wait", "inner"), ("wait", "b")]
    assert deeds == [*inside, ("wait", "aside"), ("rename", "set"), ("wait", tmp_path.name)]


def test_one_of_many_files_is_left_to_the_system(
    tmp_path: Path, deeds: list[tuple[str, str]]
) -> None:
    with output(tmp_path / "a", one_of_many=True) as aside:
        aside.write_bytes(b"")
    assert deeds == [("rename", "a")]


def test_a_name_that_the_disk_may_not_have_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "sync_folder", refused)
    with pytest.raises(InputError, match="the new one is there, but a failure of the power"):
        replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_one_of_many_files_looks_for_no_leftovers(tmp_path: Path) -> None:
    left = aside_of(tmp_path / "left").name.replace(f".{os.getpid()}.", f".{2**22 + 1}.")
    (tmp_path / left).touch()
    with output(tmp_path / "a", one_of_many=True) as aside:
        aside.write_bytes(b"")
    assert (tmp_path / left).exists()
    replace_file(tmp_path / "b", b"")
    assert not (tmp_path / left).exists()
