"""Clocks: what they ask for costs no more than its share of the time."""

from __future__ import annotations

import random

import pytest

from unmask.train.conduct import SAVING, LookPace, SavePace


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def saves_in(minutes: float, *, hours: float, step: float, cost: float) -> tuple[int, float]:
    """How often a run of equal steps is saved, and the longest time without a save."""
    clock = Clock()
    pace, count, longest = SavePace(minutes, clock), 0, 0.0
    last, end = clock.now, clock.now + 3600 * hours
    while clock.now < end:
        clock.now += step
        if pace.asks():
            longest, count = max(longest, clock.now - last), count + 1
            with pace.saved():
                clock.now += cost
            last = clock.now
    return count, longest


@pytest.mark.parametrize(("step", "cost"), [(0.5, 0.1), (7.0, 3.0), (90.0, 11.0)])
def test_a_cheap_save_comes_every_ten_minutes(step: float, cost: float) -> None:
    count, longest = saves_in(10, hours=10, step=step, cost=cost)
    assert 600 <= longest <= 600 + step
    assert count >= 36000 / (600 + step + cost) - 1


@pytest.mark.parametrize("cost", [30.0, 400.0])
def test_saving_costs_no_more_than_its_share(cost: float) -> None:
    count, _ = saves_in(10, hours=100, step=3.0, cost=cost)
    assert count > 3
    assert (count - 1) * cost <= SAVING * 360_000  # the first one's cost is not known before


def test_no_minutes_no_saves() -> None:
    assert saves_in(0, hours=100, step=60.0, cost=0.1)[0] == 0
    clock = Clock()
    pace = SavePace(0, clock)
    clock.now += 1e9
    assert not pace.worthwhile()


def test_a_save_is_asked_for_once() -> None:
    """The others hear of it a step later; until it is made it is not asked for again."""
    clock = Clock()
    pace = SavePace(1, clock)
    clock.now += 61
    assert pace.asks()
    assert not pace.asks()
    with pace.saved():
        clock.now += 1
    assert not pace.asks()
    clock.now += 61
    assert pace.asks()


def test_a_save_before_a_look_is_worthwhile_when_it_is_cheap() -> None:
    clock = Clock()
    pace = SavePace(10, clock)
    assert pace.worthwhile()  # none was made yet
    with pace.saved():
        clock.now += 2
    assert not pace.worthwhile()
    clock.now += 2 / SAVING
    assert pace.worthwhile()


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_looks_keep_within_their_share(share: float) -> None:
    """The first one's cost is not known before; then sums stay below the share at every moment."""
    dice, clock = random.Random(0), Clock()
    pace, spent, began, taken = LookPace(share, clock), 0.0, clock.now, 0
    for _ in range(5000):
        clock.now += dice.uniform(0, 20)
        if pace.allows():
            assert not taken or spent + 7 <= share * (clock.now - began)
            with pace.looked():
                clock.now += 7
            spent, taken = spent + 7, taken + 1
    assert taken > 0.9 * share * (clock.now - began) / 7


def test_a_share_of_one_leaves_out_nothing() -> None:
    clock = Clock()
    pace = LookPace(1.0, clock)
    for _ in range(3):
        assert pace.allows()
        with pace.looked():
            clock.now += 100
