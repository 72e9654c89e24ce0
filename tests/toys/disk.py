"""What a process waits for the disk to have, and in which order it renames."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unmask.files.durable import ASIDE


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Waits and renames from now on: ("wait", name) and ("rename", name); "aside" has no name."""
    deeds: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def waited(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        deeds.append(("wait", "aside" if name.endswith(ASIDE) else name))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        deeds.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", waited)
    monkeypatch.setattr(os, "replace", renamed)
    return deeds
