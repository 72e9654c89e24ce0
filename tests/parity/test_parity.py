"""Our parts compute what the published code computed."""

from __future__ import annotations

import pytest
from golden import Case, find_handlers

HANDLERS = find_handlers()


def test_golden(case: Case) -> None:
    if case.kind not in HANDLERS:
        pytest.skip(f"no handler for kind {case.kind}")
    case.check(HANDLERS[case.kind](case))
