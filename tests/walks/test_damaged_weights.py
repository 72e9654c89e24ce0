"""Whatever is done to weights, statistics or settings, a command works or says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from damaged_weights import KINDS, RAN, build, walk, warm
from forked import FAILED, REFUSED, SLOW, STARTED

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children are limited as Linux limits them"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    build(root)
    warm(root)
    return root


@pytest.mark.slow  # about three minutes for all on two cores
@pytest.mark.parametrize("name", KINDS)
def test_damaged_weights_are_answered_and_nothing_is_run(name: str, root: Path) -> None:
    found = walk(root, [name], most=20, tried=25)
    bad = [a for a in found if a.answer.kind in (FAILED, SLOW)]
    told = [f"{a.damage}: {a.answer.status}, {a.answer.told[-400:]!r}" for a in bad[:5]]
    assert not bad, "\n".join(told)
    kinds = {attempt.answer.kind for attempt in found}
    assert REFUSED in kinds or name == "model config"  # a copy for people, which nobody reads
    assert kinds <= {REFUSED, STARTED}
    assert not (root / RAN).exists()
