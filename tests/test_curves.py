"""The masked share as a function of progress."""

from __future__ import annotations

import pytest
import torch

from unmask.counts import FixedCounts
from unmask.curves import CURVES, TIME_CURVES, find_curve, masked_share, time_curve
from unmask.errors import InputError

SOME_CURVES = [name for name in CURVES if name != "muse"] + ["pow0.5", "pow3", "exponential"]


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


@pytest.mark.parametrize("name", list(TIME_CURVES))
def test_the_loss_weight_is_the_log_derivative_of_the_mask_function(name: str) -> None:
    time = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    curve = time_curve(name)
    (slope,) = torch.autograd.grad(curve.share(time).log().sum(), time)
    torch.testing.assert_close(curve.log_derivative(time), slope)


def test_curves_with_numbers_in_their_names() -> None:
    r = torch.linspace(0, 1, 5, dtype=torch.float64)
    assert torch.equal(find_curve("pow2.5")(r), 1 - r**2.5)
    assert torch.equal(find_curve("sigmoid(-3,3,1)")(r), find_curve("sigmoid")(r))
    assert not torch.equal(find_curve("sigmoid(0,3,0.9)")(r), find_curve("sigmoid")(r))


def test_the_masked_share_is_cut_to_what_a_share_can_be() -> None:
    r = torch.tensor([0.0, 1e-4, 0.5, 1.0], dtype=torch.float64)
    share = masked_share("logarithmic", r, total=16)  # log2(1000) / 4 = 2.5 at the start
    assert share.tolist() == [1, 1, 0.25, 0]
