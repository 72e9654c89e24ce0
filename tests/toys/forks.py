"""Children that do one thing and end without clearing up, as a killed process does."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root may")


def forked(body: Callable[[], object]) -> int:
    """Number of a child that runs ``body``; its status is 0 unless that fails."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def status(pid: int) -> int:
    """How a child ended: its status, or less the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def as_nobody(body: Callable[[], object]) -> int:
    """Status of a child that runs ``body`` as a user without rights of its own."""

    def change_and_do() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        body()

    return status(forked(change_and_do))


def let_others_in(folder: Path) -> None:
    """Let every user reach a temporary folder of this one."""
    for part in (folder, *folder.parents):
        if len(part.parts) > 2 and part.owner() == "root":
            part.chmod(0o755)
