"""Whatever is done to a file of data, a command does its work or says in one line why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from damaged_files import KINDS, walk


@pytest.mark.slow  # three minutes on two cores
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_answered(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    attempts = list(walk(name, tmp_path, most=10 if name.startswith("cache ") else 20))
    assert len(attempts) >= 20
    bad = [attempt for attempt in attempts if not attempt.answered]
    told = [f"{a.damage} | {a.command[:40]} | {a.status} | {a.said[-600:]}" for a in bad[:5]]
    assert not bad, "\n".join(told)
