from __future__ import annotations

from pathlib import Path

import pytest

from unmask.data.classes import join_classes, read_class_names
from unmask.errors import InputError


def test_names_are_given_or_numbers() -> None:
    given = ("a", "b", "c", "d")
    assert join_classes([[0, 2]], (), where="x").names == ("0", "1", "2")
    assert join_classes([[0, 2]], given, where="x").names == given
    assert join_classes([[None, None]], ("a",), where="x").names == ()


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="1 of 2 images of x lack a label"):
        join_classes([[None, 1]], (), where="x")
    with pytest.raises(InputError, match="label 2 but only 2 class names"):
        join_classes([[2]], ("a", "b"), where="x")
    with pytest.raises(InputError, match="label -1"):
        join_classes([[-1, 0]], (), where="x")


def test_class_file(tmp_path: Path) -> None:
    assert read_class_names(tmp_path) == ()
    (tmp_path / "classes.json").write_text('["ä", "b"]', encoding="utf8")
    assert read_class_names(tmp_path) == ("ä", "b")
    for wrong in ("[1, 2]", '{"a": 1}', "[", ""):
        (tmp_path / "classes.json").write_text(wrong)
        with pytest.raises(InputError, match=r"classes\.json"):
            read_class_names(tmp_path)
