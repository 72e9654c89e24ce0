"""Orders by themselves."""

from __future__ import annotations

import pytest
import torch

from unmask.draws import Draws
from unmask.errors import InputError
from unmask.orders import Confidence, RandomOrder, StaticOrder, halton_positions
from unmask.types import Moment


@pytest.mark.parametrize("grid", [(4, 4), (16, 16), (7, 7), (3, 5), (1, 1)])
def test_halton_visits_every_cell_once(grid: tuple[int, int]) -> None:
    positions = halton_positions(grid)
    assert sorted(positions.tolist()) == list(range(grid[0] * grid[1]))


def test_halton_begins_where_the_sequence_does() -> None:
    # points (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) of the bases 2 and 3 on a 4 x 4 grid
    cells = [2 * 4 + 1, 1 * 4 + 2, 3 * 4 + 0, 0 * 4 + 1]
    assert halton_positions((4, 4))[:4].tolist() == cells


def test_halton_spreads_better_than_raster() -> None:
    first = halton_positions((8, 8))[:16]
    quadrants = (first // 8 // 4) * 2 + (first % 8) // 4
    assert torch.bincount(quadrants, minlength=4).min() >= 3


def test_rolling_is_a_cyclic_shift_of_the_path_for_each_image() -> None:
    draws = Draws(list(range(20)))
    straight = StaticOrder().start((4, 4), draws)[0].argsort(descending=True)
    rolled = StaticOrder(roll=True).start((4, 4), draws).argsort(1, descending=True)
    shifts = set()
    for row in rolled:
        shift = int((straight == row[0]).nonzero())
        assert torch.equal(row, straight.roll(-shift))
        shifts.add(shift)
    assert len(shifts) > 5
    every = StaticOrder(path="raster", roll=True).start((1, 4), Draws(list(range(60))))
    assert {int(row.argmax()) for row in every} == {0, 1, 2, 3}, "each shift has its turn"


@pytest.mark.parametrize("script", [(0, 1, 2), (0, 0, 1, 2), (1, 2, 3, 4)])
def test_a_script_must_be_a_permutation(script: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="permutation of the 4 tokens"):
        StaticOrder(path="scripted", script=script).positions((2, 2))


def test_annealing_ends_at_zero_and_compounds_faster() -> None:
    linear, compound = Confidence(temperature=25), Confidence(temperature=25, anneal="compound")
    assert linear.temperature_at(17, 18) == compound.temperature_at(17, 18) == 0
    assert all(compound.temperature_at(t, 18) < linear.temperature_at(t, 18) for t in range(1, 17))
    assert round(compound.temperature_at(4, 18), 1) == 9.8


def test_greedy_confidence_masks_the_least_likely() -> None:
    log_prob = torch.tensor([[-1.0, -3.0, -2.0, 0.0]])
    masked = torch.tensor([[True, True, True, False]])
    score = Confidence(temperature=0).score(Moment(0, 4, masked, None, log_prob), Draws([0]))
    assert score.argsort(1).tolist() == [[1, 2, 0, 3]]


def test_a_known_token_is_certain_where_it_is_scored_again() -> None:
    masked = torch.tensor([[True, False]])
    at = Moment(0, 4, masked, None, torch.tensor([[-1.0, -7.0]]))
    rescored = Confidence(temperature=0, known="rescore")
    assert rescored.score(at, Draws([0]))[0].tolist() == pytest.approx([-1, 88.7228], abs=1e-4)
    assert rescored.hides_again
    assert not Confidence().hides_again


def test_the_noise_of_the_confidence_is_its_temperature() -> None:
    at = Moment(1, 4, torch.ones(1, 6, dtype=torch.bool), None, torch.zeros(1, 6))
    noise = Draws([3]).gumbel("order", 1, 6)
    torch.testing.assert_close(Confidence(temperature=8).score(at, Draws([3])), 4 * noise)


def test_random_order_is_uniform() -> None:
    masked = torch.ones(4000, 8, dtype=torch.bool)
    draws = Draws(list(range(4000)))
    first = RandomOrder().score(Moment(0, 4, masked), draws).argmin(1)
    counts = torch.bincount(first, minlength=8).double()
    chi2 = ((counts - 500) ** 2 / 500).sum().item()
    assert chi2 < 24.3  # 7 degrees of freedom, one in a thousand


def test_a_negative_temperature_is_refused() -> None:
    with pytest.raises(InputError, match="temperature=-1"):
        Confidence(temperature=-1)
