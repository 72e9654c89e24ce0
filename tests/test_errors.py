"""Names that are looked up, and what is said of those that are not there."""

from __future__ import annotations

import pytest

from unmask.errors import InputError, pick

TABLE = {"halton": 1, "raster": 2}


def test_a_name_gives_its_entry() -> None:
    assert pick(TABLE, "raster", "order") == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [("HALTN", "did you mean 'halton'[?]"), ("x", "known: halton, raster")],
)
def test_an_unknown_name_is_said_with_a_likely_one(name: str, told: str) -> None:
    with pytest.raises(InputError, match=f"^unknown order '{name}'; {told}$"):
        pick(TABLE, name, "order")
