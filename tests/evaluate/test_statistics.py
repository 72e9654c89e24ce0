"""Running moments equal those of one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.frechet import RunningStatistics


def normal(*shape: int, key: str = "statistics") -> Tensor:
    return torch.randn(shape, generator=keyed_generator(0, key), dtype=torch.float64)


def filled(*parts: Tensor) -> RunningStatistics:
    statistics = RunningStatistics(parts[0].shape[1])
    for part in parts:
        statistics.update(part)
    return statistics


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [49, 1], [7, 20, 23]])
def test_batches_equal_one_pass(sizes: list[int]) -> None:
    x = normal(50, 6) * 3 + 100
    found = filled(*x.split(sizes))
    assert found.count == 50
    torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.covariance(), torch.cov(x.T), rtol=1e-9, atol=1e-10)


def test_merge_equals_one_pass_and_leaves_the_other_alone() -> None:
    x = normal(40, 5)
    first, second = filled(x[:13]), filled(x[13:])
    kept = second.scatter.clone()
    first.merge(second)
    torch.testing.assert_close(first.covariance(), torch.cov(x.T))
    torch.testing.assert_close(first.mean, x.mean(0))
    assert torch.equal(second.scatter, kept)


def test_merging_with_nothing_changes_nothing() -> None:
    some, nothing = filled(normal(9, 3)), RunningStatistics(3)
    before = some.covariance()
    some.merge(nothing)
    assert torch.equal(some.covariance(), before)
    nothing.merge(some)
    assert torch.equal(nothing.covariance(), before)


def test_a_large_offset_does_not_cancel() -> None:
    x = normal(2000, 2)
    found = filled(*(x + 1e7).split(64))
    torch.testing.assert_close(found.covariance(), torch.cov(x.T), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_features_are_refused_and_not_added(bad: Tensor) -> None:
    statistics = filled(normal(4, 3))
    features = normal(5, 3)
    features[2, 1] = bad
    with pytest.raises(InputError, match="1 of 5 feature vectors"):
        statistics.update(features)
    assert statistics.count == 4


def test_other_widths_and_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="width 3"):
        RunningStatistics(3).update(normal(2, 4))
    with pytest.raises(InputError, match="width 4"):
        RunningStatistics(3).merge(RunningStatistics(4))
    with pytest.raises(InputError, match="at least 2"):
        filled(normal(1, 3)).covariance()


def test_a_batch_is_added_where_the_totals_lie() -> None:
    """Copies of 33 MB a batch, at the width of Inception, took seven times the time."""
    statistics = filled(normal(4, 3))
    before = statistics.scatter.data_ptr()
    statistics.update(normal(5, 3))
    statistics.merge(filled(normal(2, 3)))
    assert statistics.scatter.data_ptr() == before
