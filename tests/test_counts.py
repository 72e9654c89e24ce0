"""How many tokens stay masked."""

from __future__ import annotations

import pytest
import torch

from unmask.counts import FixedCounts
from unmask.curves import CURVES, find_curve, masked_share
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.masking import TrainMasking, lowest

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


def test_each_step_reveals_something_until_the_last() -> None:
    counts = table(FixedCounts(curve="arccos", least=1), 64, [0])[:, 0]
    assert torch.equal(counts[:-1], torch.arange(63, 0, -1))
    assert counts[-1] == 1  # the source's own number; decoding ends all the same


@pytest.mark.parametrize("curve", SOME_CURVES)
def test_a_curve_falls_from_one_to_zero(curve: str) -> None:
    r = torch.linspace(0, 1, 101, dtype=torch.float64)
    share = masked_share(curve, r, total=256)
    assert share[0] == pytest.approx(1, abs=1e-2)
    assert share[-1] == pytest.approx(0, abs=1e-9)
    assert (share.diff() <= 1e-12).all()


@pytest.mark.parametrize("name", ["cosin", "pow", "powx", "", "sigmoid(1,2)"])
def test_an_unknown_curve_names_the_likely_one(name: str) -> None:
    with pytest.raises(InputError, match="unknown mask curve"):
        find_curve(name)
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        FixedCounts(curve="cosin")


def test_guidance_ramps_start_at_one_or_end_at_the_scale() -> None:
    remaining = torch.tensor([[48], [32], [16], [0]])
    tables = {
        ramp: Guidance(scale=3, ramp=ramp).table(remaining, 4, 64)[:, 0].tolist()
        for ramp in ("constant", "steps", "revealed", "power-cosine")
    }
    assert tables["constant"] == [3, 3, 3, 3]
    assert tables["steps"] == [1, 1.5, 2, 2.5]
    assert tables["revealed"] == [1.5, 2, 2.5, 3]
    assert tables["power-cosine"] == pytest.approx([1, 1 + 1 - 2**-0.5, 2, 1 + 1 + 2**-0.5])


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_must_be_a_number_from_zero_on(scale: float) -> None:
    with pytest.raises(InputError, match=r"guidance\.scale"):
        Guidance(scale=scale)


def test_lowest_marks_exactly_as_many_even_among_ties() -> None:
    score = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    marked = lowest(score, torch.tensor([2, 3, 0]))
    assert marked.sum(1).tolist() == [2, 3, 0]
    assert marked[1].tolist() == [False, True, True, True]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_training_masks_are_uniform_over_positions_and_follow_the_ratio() -> None:
    masks = TrainMasking(rounding="up").masks(20_000, 16, generator(1)).double()
    share = masks.mean(0)  # E[cos(u pi/2)] = 2/pi, raised by rounding up
    expected = sum((torch.cos(torch.linspace(0, 1, 20_001)[:-1] * torch.pi / 2) * 16).ceil())
    expected = (expected / 20_000 / 16).item()
    assert torch.all((share - expected).abs() < 5 * 0.31 / 20_000**0.5 + 0.01)
    assert masks.sum(1).min() >= 1


def test_a_shared_ratio_gives_every_row_the_same_count() -> None:
    masks = TrainMasking(shared=True, rounding="up").masks(32, 16, generator(2))
    assert masks.sum(1).unique().numel() == 1
    assert not torch.equal(masks[0], masks[1])
    assert TrainMasking().masks(64, 16, generator(2)).sum(1).unique().numel() > 4


def test_rounding_and_the_least_ratio() -> None:
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    linear = {"curve": "linear"}
    assert TrainMasking(**linear, rounding="up").counts(u, 5).tolist() == [5, 3, 1]
    assert TrainMasking(**linear).counts(u, 5).tolist() == [5, 2, 1]  # half to even
    assert TrainMasking(**linear, least_ratio=0.5).counts(u, 8).tolist() == [8, 4, 4]
