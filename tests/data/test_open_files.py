from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.data import open_files
from unmask.data.open_files import Handle, OpenFiles, most_open


def used() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1  # less the folder itself


@pytest.fixture
def few() -> Iterator[int]:
    """A process that may open few files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = used() + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, before[1]))
    yield allowed
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def all_that_is_left(file: Path) -> list[int]:
    """Handles, as many as the process may still have."""
    held = []
    try:
        while True:
            held.append(os.open(file, os.O_RDONLY))
    except OSError:
        return held


def write(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{i}.bin" for i in range(count)]
    for i, file in enumerate(files):
        file.write_bytes(b"%06d" % i)
    return files


def test_any_number_of_files_under_a_small_limit(tmp_path: Path, few: int) -> None:
    files, opened = write(tmp_path, 300), OpenFiles(Handle)
    for _ in range(2):
        for i, file in enumerate(files):
            assert opened(file).read(3, 3) == b"%03d" % i
    assert len(open_files._pool.kept) <= most_open() <= few


def test_where_others_hold_all_handles_the_pool_gives_its_own_away(
    tmp_path: Path, few: int
) -> None:
    files, opened = write(tmp_path, 20), OpenFiles(Handle)
    assert opened(files[0]).read(0, 9) == b"000000"
    held = all_that_is_left(files[0])
    with pytest.raises(OSError, match="Too many open files"):
        Handle(files[1])
    assert opened(files[1]).read(0, 9) == b"000001"  # in the place of the one before
    for number in held:
        os.close(number)


def test_the_most_recently_used_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "most_open", lambda: 3)
    seen = []

    def opening(file: Path) -> Handle:
        seen.append(file.name)
        return Handle(file)

    files, opened = write(tmp_path, 4), OpenFiles(opening)
    for i in (0, 1, 2, 0, 3, 0, 2, 1):
        opened(files[i])
    assert seen == ["0.bin", "1.bin", "2.bin", "3.bin", "1.bin"]


def test_a_reader_that_is_gone_keeps_nothing_open(tmp_path: Path) -> None:
    files, opened = write(tmp_path, 5), OpenFiles(Handle)
    gc.collect()  # readers of other tests
    before = used()
    for file in files:
        opened(file)
    assert used() == before + 5
    del opened
    gc.collect()
    assert used() == before


def test_two_readers_of_one_path_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    first, second = OpenFiles(Handle), OpenFiles(Handle)
    assert first(file).read(0, 3) == b"old"
    file.unlink()
    file.write_bytes(b"new")
    assert second(file).read(0, 3) == b"new"


def test_a_file_that_is_being_read_is_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_files, "most_open", lambda: 1)
    files, opened = write(tmp_path, 2), OpenFiles(Handle)
    handle = opened(files[0])
    opened(files[1])
    assert handle.read(0, 6) == b"000000"


def test_threads_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "most_open", lambda: 2)
    files, opened, wrong = write(tmp_path, 16), OpenFiles(Handle), []

    def reading(start: int) -> None:
        for k in range(400):
            i = (start + 7 * k) % 16
            if opened(files[i]).read(0, 6) != b"%06d" % i:
                wrong.append(i)

    threads = [threading.Thread(target=reading, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def in_child(opened: Any, file: Any, queue: Any) -> Any:
    queue.put((opened(file).read(0, 6), len(open_files._pool.kept)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_opens_its_own(tmp_path: Path, method: str) -> None:
    files, opened = write(tmp_path, 2), OpenFiles(Handle)
    opened(files[0])
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    with open_files._pool.lock:  # as if another thread held it at the fork
        child = context.Process(target=in_child, args=(opened, files[1], queue))
        child.start()
    assert queue.get() == (b"000001", 1)
    child.join()
    assert len(pickle.dumps(opened)) < 200


def test_a_file_that_ends_early_gives_what_it_has(tmp_path: Path) -> None:
    (file,) = write(tmp_path, 1)
    assert Handle(file).read(4, 100) == b"00"
    with pytest.raises(FileNotFoundError):
        Handle(tmp_path / "none")
