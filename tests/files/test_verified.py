from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from unmask.files import verified
from unmask.files.digests import digest_of, digest_of_file, total
from unmask.files.verified import LIST, Verified


def write(folder: Path, *contents: bytes) -> dict[str, str]:
    for i, content in enumerate(contents):
        (folder / f"f {i}.npy").write_bytes(content)
    return {f"f {i}.npy": digest_of(content) for i, content in enumerate(contents)}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read, in order."""
    names, whole = list[str](), verified.digest_of_file

    def noted(file: Path) -> str:
        names.append(file.name)
        return whole(file)

    monkeypatch.setattr(verified, "digest_of_file", noted)
    return names


def test_each_file_is_read_once(tmp_path: Path, read: list[str]) -> None:
    digests = write(tmp_path, b"a", b"b", b"c" * 5_000_000)
    assert Verified(tmp_path).damaged(digests) == []
    assert sorted(read) == sorted(digests)
    assert Verified(tmp_path).damaged(digests) == []
    assert len(read) == 3
    assert Verified(tmp_path).damaged(digests, anew=True) == []
    assert len(read) == 6


def test_a_change_is_read_again_and_found(tmp_path: Path, read: list[str]) -> None:
    digests = write(tmp_path, b"a", b"b", b"c")
    seen = Verified(tmp_path)
    seen.damaged(digests)
    (tmp_path / "f 1.npy").write_bytes(b"x")  # of the same size
    assert seen.damaged(digests) == Verified(tmp_path).damaged(digests) == ["f 1.npy"]
    assert read.count("f 0.npy") == 1
    (tmp_path / "f 1.npy").write_bytes(b"b")
    (tmp_path / "f 2.npy").unlink()
    assert seen.damaged(digests) == ["f 2.npy"]


def test_what_others_write_is_seen(tmp_path: Path, read: list[str]) -> None:
    digests = write(tmp_path, b"a", b"b")
    first, second = Verified(tmp_path), Verified(tmp_path)
    assert first.unknown(digests) == list(digests)
    second.damaged(digests)
    assert first.unknown(digests) == []
    assert len(read) == 2


def test_a_list_that_has_become_shorter_is_read_from_its_beginning(
    tmp_path: Path, read: list[str]
) -> None:
    seen, digests = Verified(tmp_path), write(tmp_path, b"a", b"b", b"c")
    seen.damaged({name: digests[name] for name in ("f 0.npy", "f 1.npy")})
    assert seen.unknown(digests) == ["f 2.npy"]
    (tmp_path / LIST).unlink()
    Verified(tmp_path).damaged({"f 2.npy": digests["f 2.npy"]})
    assert seen.unknown(digests) == []
    assert len(read) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\xff\n1 2 3", b"1 2\n\n9 9 9 9 9\n-1 x y z\n", b"\0" * 999]
)
def test_a_list_that_is_damaged_costs_a_reading_and_no_more(
    tmp_path: Path, read: list[str], content: bytes
) -> None:
    digests = write(tmp_path, b"a", b"b")
    Verified(tmp_path).damaged(digests)
    (tmp_path / LIST).write_bytes(content)
    assert Verified(tmp_path).damaged(digests) == []
    assert Verified(tmp_path).damaged(digests) == []
    assert len(read) in (2, 4)


def test_where_nobody_may_write_the_user_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    (tmp_path / "c").mkdir()
    digests = write(tmp_path / "c", b"a")
    (tmp_path / "c" / LIST).mkdir()  # no file can be made by that name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    for _ in range(2):
        assert Verified(tmp_path / "c").damaged(digests) == []
    assert read == ["f 0.npy"]
    (tmp_path / "own").rename(tmp_path / "gone")
    (tmp_path / "own").write_text("a file")  # nor here
    assert Verified(tmp_path / "c").damaged(digests) == []
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user without a home
    assert Verified(tmp_path / "c").damaged(digests) == []
    assert not (tmp_path / "~").exists()


def test_processes_share_the_work(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = write(tmp_path, *(b"%d" % i for i in range(40)))
    monkeypatch.setattr(os, "getpid", lambda: threading.get_ident() % 40)
    threads = [threading.Thread(target=Verified(tmp_path).damaged, args=(digests,)) for _ in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Verified(tmp_path).unknown(digests) == []
    assert len(read) < 4 * 40


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert digest_of_file(tmp_path / "x") == digest_of(b"abc" * 1_000_000)
    assert total([digest_of(b"a"), digest_of(b"b")]) == total([digest_of(b"b"), digest_of(b"a")])
    assert total([total([digest_of(b"a")]), digest_of(b"b")]) == total(map(digest_of, (b"a", b"b")))
    assert len(total([])) == len(total(["f" * 32] * 9)) == 32
