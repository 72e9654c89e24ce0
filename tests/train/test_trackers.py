"""A full disk under a tracker's thread is one line, not a traceback."""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tensorboard.summary.writer.event_file_writer import _AsyncWriter

from unmask.errors import InputError
from unmask.train.log import hush_writers
from unmask.train.run_folder import check_place


class FullDisk:
    """A record writer on a full disk."""

    def write(self, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        pass

    close = flush


def test_a_refusal_is_raised_and_not_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    hush_writers()
    hush_writers()
    writer = _AsyncWriter(FullDisk())
    with suppress(OSError):  # if the thread is faster
        writer.write(b"figure")
    writer._worker.join()
    with pytest.raises(OSError, match="No space left"):
        writer.write(b"figure")
    assert capsys.readouterr().err == ""


def test_anything_else_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: heard.append(failure.exc_type))
    hush_writers()

    def fail(error: Exception) -> None:
        raise error

    for error in (OSError(errno.ENOSPC, "full"), ValueError()):
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
    assert heard == [OSError, ValueError]


def test_a_start_that_ended_before_its_recipe_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "tracker").mkdir()
    check_place(tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="but no run"):
        check_place(tmp_path)
