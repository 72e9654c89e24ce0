"""A base keeps its classes: data with others is refused, and the way out is no circle."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_system import TOY, toy_tokenizer

from unmask.errors import InputError
from unmask.train.generator import check_sizes


def test_a_base_of_other_classes_is_named_with_the_way_out() -> None:
    tokenizer = toy_tokenizer()
    grid = tokenizer.grid(TOY.image_size)
    with pytest.raises(InputError, match=r"give --network\.classes 2"):
        check_sizes(TOY, tokenizer, grid=grid, classes=2)
    with pytest.raises(InputError, match=r"the base b knows .* or train without it") as error:
        check_sizes(replace(TOY, base="b"), tokenizer, grid=grid, classes=2)
    assert "--network.classes" not in str(error.value)
