"""Whatever is done to a file of data, a command does its work or says in one line why not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from damaged_files import KINDS, calls, warm
from forked import REFUSED, STARTED, answers


@pytest.mark.slow  # three minutes on two cores
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_answered(name: str, tmp_path: Path) -> None:
    warm()
    most = 10 if name.startswith("cache ") else 20
    found = list(answers(calls(name, tmp_path, most), workers=os.cpu_count() or 1))
    assert len(found) >= 20
    bad = [(attempt, a) for attempt, a in found if a.kind not in (STARTED, REFUSED)]
    assert not bad, "\n".join(f"{attempt} {a.status} {a.told[-600:]}" for attempt, a in bad[:5])
