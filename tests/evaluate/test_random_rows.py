"""A sample of a stream of unknown length."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.evaluate.scores import RandomRows


def sample(count: int, most: int, batch: int) -> Tensor:
    rows = RandomRows(most)
    for part in torch.arange(count)[:, None].split(batch):
        rows.add(part)
    return rows.kept().flatten()


@pytest.mark.parametrize("most", [20, 21, 50])
def test_all_rows_stay_in_order_where_they_fit(most: int) -> None:
    assert sample(20, most, 7).tolist() == list(range(20))


@pytest.mark.parametrize(("count", "most"), [(100, 10), (1000, 333), (21, 20)])
def test_a_sample_is_ascending_and_does_not_depend_on_the_batches(count: int, most: int) -> None:
    found = sample(count, most, 7)
    assert len(found) == most
    assert (found.diff() > 0).all()
    assert torch.equal(found, sample(count, most, count))


def test_every_part_of_the_stream_is_as_likely() -> None:
    found = sample(100_000, 2000, 900)
    shares = found.div(10_000, rounding_mode="floor").bincount(minlength=10)
    assert (shares - 200).abs().max() < 5 * 200**0.5


def test_none_wanted_none_kept() -> None:
    assert sample(30, 0, 7).numel() == 0
