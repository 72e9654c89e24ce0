"""How many tokens stay masked."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.counts import AncestralCounts, FixedCounts
from unmask.curves import (
    CURVES,
    TIME_CURVES,
    find_curve,
    masked_share,
    remaining_time,
    time_curve,
)
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.masking import BernoulliMasking, NormalMasking, TrainMasking, lowest

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


@pytest.mark.parametrize("name", list(TIME_CURVES))
def test_the_loss_weight_is_the_log_derivative_of_the_mask_function(name: str) -> None:
    time = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    curve = time_curve(name)
    (slope,) = torch.autograd.grad(curve.share(time).log().sum(), time)
    torch.testing.assert_close(curve.log_derivative(time), slope)


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
    masks = TrainMasking(rounding="up").draw(20_000, 16, generator(1)).masked.double()
    share = masks.mean(0)  # E[cos(u pi/2)] = 2/pi, raised by rounding up
    expected = sum((torch.cos(torch.linspace(0, 1, 20_001)[:-1] * torch.pi / 2) * 16).ceil())
    expected = (expected / 20_000 / 16).item()
    assert torch.all((share - expected).abs() < 5 * 0.31 / 20_000**0.5 + 0.01)
    assert masks.sum(1).min() >= 1


def test_a_shared_ratio_gives_every_row_the_same_count() -> None:
    masks = TrainMasking(shared=True, rounding="up").draw(32, 16, generator(2)).masked
    assert masks.sum(1).unique().numel() == 1
    assert not torch.equal(masks[0], masks[1])
    assert TrainMasking().draw(64, 16, generator(2)).masked.sum(1).unique().numel() > 4


def test_rounding_and_the_least_ratio() -> None:
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    linear = {"curve": "linear"}
    assert TrainMasking(**linear, rounding="up").counts(u, 5).tolist() == [5, 3, 1]
    assert TrainMasking(**linear).counts(u, 5).tolist() == [5, 2, 1]  # half to even
    assert TrainMasking(**linear, least_ratio=0.5).counts(u, 8).tolist() == [8, 4, 4]


def test_ratios_of_the_normal_masking_have_the_published_moments() -> None:
    mage = NormalMasking(mean=0.55, least=0.5, drop="least")
    ratios = mage.ratio((torch.arange(100_000) + 0.5).double() / 100_000)
    assert float(ratios.mean()) == pytest.approx(0.6936, abs=1e-4)
    assert float(ratios.std()) == pytest.approx(0.1286, abs=1e-4)
    mar = NormalMasking(mean=1.0, least=0.7)
    counts = (mar.ratio((torch.arange(100_000) + 0.5).double() / 100_000) * 256).ceil()
    assert float(counts.mean()) / 256 == pytest.approx(0.869, abs=1e-3)


@pytest.mark.parametrize("drop", ["hidden", "least"])
def test_the_normal_masking_hides_equally_many_and_drops_among_them(drop: str) -> None:
    rule = NormalMasking(mean=0.7, least=0.4, most=0.9, drop=drop)
    for seed in range(20):
        masks = rule.draw(8, 32, generator(seed))
        count = masks.masked.sum(1).unique()
        assert len(count) == 1
        assert math.ceil(0.4 * 32) <= int(count) <= math.ceil(0.9 * 32)
        unseen = torch.ones_like(masks.masked).scatter(1, masks.kept, False)
        assert torch.equal(unseen & masks.masked, unseen), "only hidden tokens are dropped"
        assert int(unseen[0].sum()) == (int(count) if drop == "hidden" else math.ceil(0.4 * 32))


def test_a_shared_bernoulli_mask_hides_equally_many_in_every_image() -> None:
    masks = BernoulliMasking(weighted=True).draw(16, 64, generator(3))
    assert len(masks.masked.sum(1).unique()) == 1
    assert masks.weight.unique().numel() == 1
    assert masks.masked.unique(dim=0).shape[0] == 16, "each image in its own order"
    seen = torch.zeros_like(masks.masked).scatter(1, masks.kept, True)
    assert torch.equal(seen, ~masks.masked)


def test_bernoulli_masks_hide_the_published_share_and_at_least_two() -> None:
    rule = BernoulliMasking(curve="exp", least_time=0.2)
    counts = [rule.draw(1, 256, generator(k)).masked.sum() for k in range(2000)]
    assert float(torch.stack(counts).float().mean()) / 256 == pytest.approx(0.855, abs=0.01)
    rare = BernoulliMasking(curve="linear", least_time=0.0)
    assert min(int(rare.draw(1, 4, generator(k)).masked.sum()) for k in range(500)) == 2


def test_independent_bernoulli_masks_have_a_time_and_a_weight_an_image() -> None:
    masks = BernoulliMasking(curve="cosine", shared=False, weighted=True).draw(64, 64, generator(1))
    assert masks.masked.sum(1).unique().numel() > 10
    assert masks.weight.unique().numel() == 64
    assert masks.kept is None
    share = masks.masked.double().mean(1)
    order = masks.weight.argsort()  # the weight falls with the time, the share rises
    assert share[order[:16]].mean() > share[order[-16:]].mean()
