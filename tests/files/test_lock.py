"""One process at a time uses a folder, and no dead one keeps it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from disk import watched
from forks import as_nobody, as_root, forked, let_others_in, status

from unmask.errors import InputError
from unmask.files import lock
from unmask.files.lock import LOCK, Holder, locked

ELSEWHERE = replace(Holder(), host="node7", pid=4711, machine="another start of another machine")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second stands for a minute and a half."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "POLL", 0.02)
    monkeypatch.setattr(lock, "STALE", 1.0)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """A child that holds ``tmp_path / "run"`` until it is killed."""

    def hold() -> None:
        with locked(tmp_path / "run", "run"):
            (tmp_path / "ready").touch()
            time.sleep(60)

    pid = forked(hold)
    while not (tmp_path / "ready").exists():
        time.sleep(0.005)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def left_by(folder: Path, other: Holder, *, age: float = 0.0) -> Path:
    """The lock file of another process, last renewed ``age`` seconds ago."""
    folder.mkdir()
    file = folder / LOCK
    file.write_text(json.dumps(asdict(other)))
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def refused(folder: Path) -> str:
    """The line with which a second use of a folder is refused."""
    with pytest.raises(InputError) as caught, locked(folder, "run"):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_second_process_is_refused_by_name(tmp_path: Path, holder: int) -> None:
    line = refused(tmp_path / "run")
    assert str(tmp_path / "run") in line
    assert f"process {holder} on {Holder().host!r} since 20" in line
    assert "another folder" in line


def test_a_killed_process_frees_its_folder_at_once(tmp_path: Path) -> None:
    def die() -> None:
        with locked(tmp_path, "run"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert status(forked(die)) == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    start = time.monotonic()
    with locked(tmp_path, "run"):
        pass
    assert time.monotonic() - start < 0.9 * lock.STALE


def test_nothing_stays_behind(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b", "run") as held:
        held.check()
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_an_exception_frees_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path, "run"):
        raise RuntimeError
    with locked(tmp_path, "run"):
        pass


def test_the_same_process_is_no_exception(tmp_path: Path) -> None:
    with locked(tmp_path, "run"):
        assert "which is this one" in refused(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path)
        assert "which is this one" in refused(tmp_path / "link")
    with locked(tmp_path, "run"):
        pass


def test_a_forked_child_neither_holds_nor_frees(tmp_path: Path) -> None:
    with locked(tmp_path, "run") as held:

        def leave() -> None:
            held.release()
            refused(tmp_path)

        assert status(forked(leave)) == 0
        assert status(forked(lambda: refused(tmp_path))) == 0
        held.check()


def test_children_that_outlive_the_holder_do_not_keep_it(tmp_path: Path) -> None:
    def die_as_a_parent() -> None:
        with locked(tmp_path / "run", "run"):
            pid = forked(lambda: time.sleep(60))
            (tmp_path / "child").write_text(str(pid))
            os.kill(os.getpid(), signal.SIGKILL)

    assert status(forked(die_as_a_parent)) == -signal.SIGKILL
    with locked(tmp_path / "run", "run"):
        pass
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_another_machine_that_renews_is_refused(tmp_path: Path) -> None:
    file = left_by(tmp_path / "run", ELSEWHERE, age=0.2)

    def renew() -> None:
        for _ in range(100):
            time.sleep(0.05)
            os.utime(file)

    pid = forked(renew)
    assert "process 4711 on 'node7'" in refused(tmp_path / "run")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(("age", "least", "most"), [(0.0, 0.9, 10.0), (100.0, 0.0, 0.9)])
def test_another_machine_that_is_silent_is_waited_for(
    tmp_path: Path, age: float, least: float, most: float
) -> None:
    left_by(tmp_path / "run", ELSEWHERE, age=age)
    start = time.monotonic()
    with locked(tmp_path / "run", "run"):
        assert least <= time.monotonic() - start <= most
    assert not list((tmp_path / "run").iterdir())


def test_a_time_of_change_in_the_future_does_not_keep_the_folder(tmp_path: Path) -> None:
    left_by(tmp_path / "run", ELSEWHERE, age=-1e6)
    with locked(tmp_path / "run", "run"):
        pass


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b"null", b'{"host": 1}', b"\xff\x00" * 3000])
def test_a_torn_lock_of_a_dead_process_is_taken(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / LOCK).write_bytes(torn)
    with locked(tmp_path, "run"):
        pass


def test_who_is_taken_for_dead_is_told(tmp_path: Path) -> None:
    with locked(tmp_path, "run") as held:
        (tmp_path / LOCK).unlink()
        (tmp_path / LOCK).write_text(json.dumps(asdict(ELSEWHERE)))
        wait_until(lambda: held.lost)
        with pytest.raises(InputError, match="taken over"):
            held.check()
    assert (tmp_path / LOCK).exists(), "it is the other's"


def test_who_is_overwritten_is_told(tmp_path: Path) -> None:
    """Two machines that see no lock of each other may write the same file at one moment."""
    with locked(tmp_path, "run") as held:
        os.pwrite(held.handle, json.dumps(asdict(ELSEWHERE)).encode().ljust(lock.RECORD), 0)
        wait_until(lambda: held.lost)
        with pytest.raises(InputError, match="'node7'"):
            held.check()


def wait_until(condition: Callable[[], object]) -> None:
    """Fails after five seconds."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_holder_renews_its_lock(tmp_path: Path) -> None:
    with locked(tmp_path, "run"):
        os.utime(tmp_path / LOCK, (0, 0))
        wait_until(lambda: (tmp_path / LOCK).stat().st_mtime > 0)


def test_without_locks_of_the_kernel_signs_of_life_decide(
    tmp_path: Path, holder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_try_lock", lambda handle, how: None)
    assert f"process {holder} on" in refused(tmp_path / "run")
    left_by(tmp_path / "other", Holder(), age=0.5)
    with locked(tmp_path / "other", "run"):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("n" * 300)):
        assert str(place) in refused(place)


@as_root
def test_other_users(tmp_path: Path, holder: int) -> None:
    """A folder that one may not write is named; a lock that one may only read tells who has it."""

    let_others_in(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o755)
    shared, free = tmp_path / "run", left_by(tmp_path / "free", Holder()).parent
    shared.chmod(0o777)
    free.chmod(0o777)

    def look() -> None:
        assert "Permission denied" in refused(tmp_path / "closed")
        assert f"process {holder} on" in refused(shared)
        with locked(free, "run"):
            pass

    assert as_nobody(look) == 0


def test_many_at_once_never_share(tmp_path: Path) -> None:
    """Eight processes take the folder as often as they can; each finds its own mark untouched."""

    def take_often() -> None:
        end, mark = time.monotonic() + 1.5, tmp_path / "mark"
        while time.monotonic() < end:
            try:
                with locked(tmp_path / "run", "run"):
                    assert not mark.exists()
                    mark.write_text("")
                    time.sleep(0.001)
                    mark.unlink()
            except InputError:
                time.sleep(0.0005)

    children = [forked(take_often) for _ in range(8)]
    assert [status(pid) for pid in children] == [0] * 8


def test_the_disk_has_who_holds_a_folder_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = watched(monkeypatch)
    with locked(tmp_path, "run"):
        assert deeds == [("wait", LOCK)]
        assert (tmp_path / LOCK).stat().st_size == lock.RECORD
