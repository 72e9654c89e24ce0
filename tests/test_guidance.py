"""How strong guidance is, step by step."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.curves import remaining_time
from unmask.errors import InputError
from unmask.guidance import Guidance


def test_guidance_ramps_start_at_one_or_end_at_the_scale() -> None:
    remaining = torch.tensor([[48], [32], [16], [0]])
    tables = {
        ramp: Guidance(scale=3, ramp=ramp).table(remaining, 4, 64)["null"][:, 0].tolist()
        for ramp in ("constant", "steps", "revealed", "power-cosine")
    }
    assert tables["constant"] == [3, 3, 3, 3]
    assert tables["steps"] == [1, 1.5, 2, 2.5]
    assert tables["revealed"] == [1.5, 2, 2.5, 3]
    assert tables["power-cosine"] == pytest.approx([1, 1 + 1 - 2**-0.5, 2, 1 + 1 + 2**-0.5])


def test_the_steep_ramps_of_emigm_are_their_formulas() -> None:
    remaining, known = torch.tensor([[48], [0]]), 0.25
    wanted = {
        "revealed-power": known**2,
        "revealed-cubic": known**3,
        "revealed-exp": 1 - math.exp(-5 * known),
        "revealed-cosine": math.cos(math.pi / 2 * (1 - known)),
    }
    for ramp, share in wanted.items():
        table = Guidance(scale=3, ramp=ramp).table(remaining, 2, 64)["null"][:, 0]
        assert table[0] == pytest.approx(1 + 2 * share)


def test_an_interval_guides_only_where_the_time_left_lies_in_it() -> None:
    remaining = torch.zeros(10, 1, dtype=torch.long)
    table = Guidance(scale=3, interval=(0.25, 0.75)).table(remaining, 10, 64)["null"][:, 0]
    assert table.tolist() == [1, 1, 3, 3, 3, 3, 3, 1, 1, 1]  # 0.7 to 0.3 are left after these
    later = Guidance(scale=3, interval=(0.25, 0.75)).table(remaining[4:], 10, 64)["null"]
    assert torch.equal(later[:, 0], table[4:])


def test_each_weak_branch_has_its_own_scale_and_none_is_made_for_1() -> None:
    remaining = torch.zeros(2, 1, dtype=torch.long)
    both = Guidance(scale=3, self_scale=2).table(remaining, 2, 64)
    assert list(both) == ["null", "self"], "the order in which branches are computed"
    assert both["null"].unique().item() == 3
    assert both["self"].unique().item() == 2
    assert list(Guidance(scale=3, weak="self").table(remaining, 2, 64)) == ["self"]
    assert Guidance().table(remaining, 2, 64) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (0.5, 0.2)}, "low < high"),
        ({"weak": "self", "self_scale": 2.0}, "guidance.scale alone"),
        ({"self_scale": math.nan}, "self_scale=nan"),
    ],
)
def test_a_guidance_that_contradicts_itself_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Guidance(**options)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_must_be_a_number_from_zero_on(scale: float) -> None:
    with pytest.raises(InputError, match=r"guidance\.scale"):
        Guidance(scale=scale)


def test_the_power_bends_the_cosine_ramp() -> None:
    remaining = torch.zeros(4, 1, dtype=torch.long)
    guidance = Guidance(scale=3, ramp="power-cosine", power=2.0)
    wanted = [1 + (1 - math.cos(math.pi * (t / 4) ** 2)) for t in range(4)]
    assert guidance.table(remaining, 4, 64)["null"][:, 0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("ramp", ["steps", "power-cosine"])
def test_a_ramp_of_later_steps_is_the_end_of_the_whole(ramp: str) -> None:
    remaining = torch.zeros(10, 1, dtype=torch.long)
    guidance = Guidance(scale=3, ramp=ramp)
    whole, later = (guidance.table(remaining[k:], 10, 64)["null"] for k in (0, 4))
    assert torch.equal(later, whole[4:])


def test_an_interval_holds_its_high_end_and_not_its_low_one() -> None:
    time = remaining_time(10)
    interval = (float(time[7]), float(time[3]))
    remaining = torch.zeros(10, 1, dtype=torch.long)
    table = Guidance(scale=3, interval=interval).table(remaining, 10, 64)["null"][:, 0]
    assert table.tolist() == [1, 1, 3, 3, 3, 3, 1, 1, 1, 1]


def test_a_scale_below_one_is_guidance_too() -> None:
    assert Guidance(scale=0.5, self_scale=0.0).scales == {"null": 0.5, "self": 0.0}
