"""Our parts compute what the published code computed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from golden import Case, find_handlers

HANDLERS = find_handlers()
OWN = Path(__file__).parents[1] / "fixtures"


def test_golden(case: Case) -> None:
    if case.kind not in HANDLERS:
        pytest.skip(f"no handler for kind {case.kind}")
    case.check(HANDLERS[case.kind](case))
    if unread := case.unread():
        told = f"{case.kind}/{case.name}: the handler ignores {', '.join(unread)}"
        # cases from elsewhere may say more than decides; what is compared tells whether it did
        assert not case.path.is_relative_to(OWN), told
        warnings.warn(told, stacklevel=1)
