"""A class is asked for by name or label."""

from __future__ import annotations

import pytest

from unmask.errors import InputError
from unmask.labels import class_index

NAMES = ("T-shirt/top", "Trouser", "Bag", "7")


@pytest.mark.parametrize(
    ("asked", "label"), [("Bag", 2), ("bag", 2), ("1", 1), ("7", 3), ("t-SHIRT/top", 0)]
)
def test_a_name_or_an_index_names_a_class(asked: str, label: int) -> None:
    assert class_index(NAMES, asked) == label


def test_unknown_classes_say_what_was_meant() -> None:
    with pytest.raises(InputError, match="did you mean 'Trouser'"):
        class_index(NAMES, "Trousers")
    with pytest.raises(InputError, match="class 9 is out of range; use 0 to 3"):
        class_index(NAMES, "9")
    with pytest.raises(InputError, match="no classes"):
        class_index((), "Bag")
