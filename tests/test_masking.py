"""Which tokens a training example hides."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.errors import InputError
from unmask.masking import BernoulliMasking, Masking, NormalMasking, TrainMasking, lowest


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


def test_counts_of_the_normal_masking_are_rounded_up_and_at_least_one() -> None:
    rule, score = NormalMasking(mean=0.55, least=0.1), torch.arange(8.0).expand(3, 8)
    for ratio, count in ((0.0, 1), (0.126, 2), (0.51, 5), (1.0, 8)):
        masked = rule.hide(torch.tensor(ratio, dtype=torch.float64), score).masked
        assert masked.sum(1).tolist() == [count] * 3
        assert masked[:, :count].all(), "the lowest scores are hidden"


def test_ratios_end_where_the_normal_distribution_is_cut() -> None:
    ends = torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64)
    found = NormalMasking(mean=0.4, std=0.3, least=0.2, most=0.9).ratio(ends)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.9], dtype=torch.float64))


def test_the_time_of_a_bernoulli_mask_begins_at_a_thousandth_or_at_the_least() -> None:
    u = torch.tensor([0.0, 0.1, 1.0])
    alone = BernoulliMasking(shared=False).time(u)
    torch.testing.assert_close(alone, torch.tensor([0.001, 0.1009, 1.0]))
    shared = BernoulliMasking(least_time=0.2).time(u)
    torch.testing.assert_close(shared, torch.tensor([0.2008, 0.2008, 1.0]))


def test_a_token_counts_by_the_log_derivative_only_if_weighted() -> None:
    time = torch.tensor([0.25, 0.5])
    weighted = BernoulliMasking(curve="linear", weighted=True).weight(time)
    torch.testing.assert_close(weighted, torch.tensor([4.0, 2.0]))
    assert BernoulliMasking(curve="linear").weight(time).item() == 1


def test_a_least_above_the_most_is_refused() -> None:
    with pytest.raises(InputError, match=r"masking\.least=0\.9 must be at most masking\.most=0\.5"):
        NormalMasking(mean=0.5, least=0.9, most=0.5)


LAWS = [
    TrainMasking(),
    TrainMasking(shared=True, rounding="up"),
    NormalMasking(mean=1.0, least=0.7),
    NormalMasking(mean=0.55, least=0.5, drop="least"),
    BernoulliMasking(weighted=True),
    BernoulliMasking(curve="cosine", shared=False, weighted=True),
]


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("part", [TrainMasking.part, Masking.part], ids=["own", "by drawing all"])
def test_some_rows_have_the_masks_that_they_have_among_all(law: Masking, part: object) -> None:
    rows, whole = torch.tensor([3, 4, 11]), law.draw(12, 32, generator(4))
    of_law = Masking.part if part is Masking.part else type(law).part
    some, hidden = of_law(law, 12, 32, generator(4), rows)
    assert torch.equal(hidden, whole.masked.sum(1))
    for found, of_all in zip(some, whole, strict=True):
        assert (found is None) == (of_all is None)
        assert found is None or torch.equal(found, of_all[rows])
