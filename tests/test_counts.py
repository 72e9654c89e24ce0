"""How many tokens stay masked."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.counts import AncestralCounts, FixedCounts
from unmask.curves import CURVES, remaining_time
from unmask.draws import Draws
from unmask.errors import InputError

SOME_CURVES = [name for name in CURVES if name != "muse"] + ["pow0.5", "pow3", "exponential"]


def table(rule: FixedCounts, steps: int, known: list[int], length: int = 64) -> torch.Tensor:
    masked = torch.arange(length) >= torch.tensor(known)[:, None]
    return rule.table(steps, 0, masked, Draws([0] * len(known)))


@pytest.mark.parametrize("curve", SOME_CURVES)
@pytest.mark.parametrize("pace", ["each_step", "overall"])
@pytest.mark.parametrize("steps", [1, 2, 8, 64])
def test_counts_fall_to_the_end(curve: str, pace: str, steps: int) -> None:
    counts = table(FixedCounts(curve=curve, pace=pace), steps, [0, 17])
    assert counts.shape == (steps, 2)
    assert (counts[1:] <= counts[:-1]).all()
    assert (counts[0] < torch.tensor([64, 47])).all()
    assert (counts[-1] == 0).all()


def test_counts_are_the_floor_of_the_curve_and_overall_at_most_one_fewer_a_step() -> None:
    cosine = [math.floor(64 * math.cos(math.pi / 2 * t / 8)) for t in range(1, 8)]
    assert table(FixedCounts(), 8, [0])[:, 0].tolist() == [*cosine, 0]
    flat = [math.floor(64 * (1 - (t / 8) ** 8)) for t in range(1, 9)]
    assert flat[:4] == [63, 63, 63, 63]
    bounded = table(FixedCounts(curve="pow8", pace="overall"), 8, [0])[:, 0]
    assert bounded.tolist() == [min(count, 63 - t) for t, count in enumerate(flat)]


def test_in_float32_two_thirds_of_a_cosine_is_one_token_less() -> None:
    third = {p: table(FixedCounts(precision=p), 3, [0], 256)[1, 0] for p in ("float32", "float64")}
    assert third == {"float32": 127, "float64": 128}


def test_each_step_reveals_something_until_the_last() -> None:
    counts = table(FixedCounts(curve="arccos", least=1), 64, [0])[:, 0]
    assert torch.equal(counts[:-1], torch.arange(63, 0, -1))
    assert counts[-1] == 1  # the source's own number; decoding ends all the same


def ancestral(runs: int, curve: str, steps: int = 8, length: int = 64) -> torch.Tensor:
    masked = torch.ones(2, length, dtype=torch.bool)
    rule = AncestralCounts(curve=curve)
    tables = [rule.table(steps, 0, masked, Draws([0, 1], run_seed=r)) for r in range(runs)]
    return torch.stack(tables)  # (runs, steps, 2)


def test_ancestral_counts_are_shared_by_rows_fall_strictly_and_end_at_zero() -> None:
    tables = ancestral(50, "exp")
    assert torch.equal(tables[..., 0], tables[..., 1])
    before = torch.cat([torch.full((50, 1), 64), tables[:, :-1, 0]], dim=1)
    revealed = before - tables[..., 0]
    assert ((revealed >= 1) | (before == 0)).all(), "a step reveals at least one while any is left"
    assert (tables[:, -1] == 0).all()


def test_ancestral_counts_follow_the_mask_function_on_average() -> None:
    tables, time = ancestral(400, "linear").double(), remaining_time(8)[1:].double()
    error = tables[:, :, 0].mean(0) - 64 * time
    assert error.abs().max() < 4 * 4 / 20, "deviation of a binomial of 64 is at most 4"


def test_ancestral_counts_refuse_rows_that_hide_unequally_many() -> None:
    masked = torch.tensor([[True, True], [True, False]])
    with pytest.raises(InputError, match="from 1 to 2"):
        AncestralCounts().table(2, 0, masked, Draws([0, 1]))


def test_the_last_step_reveals_every_token_for_certain() -> None:
    chance = AncestralCounts(curve="linear").reveal_probability(4)
    torch.testing.assert_close(chance, torch.tensor([1 / 4, 1 / 3, 1 / 2, 1]), atol=1e-4, rtol=0)
    assert chance[-1] == 1
