"""Batches of codes: pure in (seed, step), equal for any number of processes, rightly weighted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unmask.errors import InputError
from unmask.masking import BernoulliMasking, Masking, NormalMasking, TrainMasking
from unmask.objectives.masked import LocatedBatch
from unmask.recipes.training import Training
from unmask.train.masked_batches import MaskedBatches

CLASSES, LENGTH, IMAGES = 10, 16, 40


class Codes:
    """Forty images whose codes name the image and the view."""

    labels = torch.arange(IMAGES) % CLASSES
    channels, length = 0, LENGTH

    def __init__(self, views: int = 2) -> None:
        self.views = views

    def __len__(self) -> int:
        return IMAGES

    def tokens(
        self, rows: torch.Tensor, views: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        return (rows * 1000 + views * 100)[:, None] + torch.arange(LENGTH)


class Moments(Codes):
    """Forty images whose latents are the noise they were drawn with, plus a thousand an image."""

    channels = 3

    def tokens(
        self, rows: torch.Tensor, views: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert noise is not None
        return (rows * 1000 + views * 100)[:, None, None] + noise.double()


def batches(
    *, shared: bool = False, cache: Codes | None = None, classes: int = CLASSES, **options: Any
) -> MaskedBatches:
    """Batches of eight."""
    place = {k: options.pop(k) for k in ("rank", "world") if k in options}
    training = Training(**{"steps": 100, "batch_size": 8, "seed": 3, **options})
    masking = TrainMasking(shared=shared, rounding="up")
    return MaskedBatches(cache or Codes(), masking, training=training, classes=classes, **place)


def joined(parts: list[LocatedBatch]) -> dict[str, torch.Tensor]:
    """The examples of several micro-batches, by row."""
    names = ("tokens", "masked", "class_labels", "weight")
    return {n: torch.cat([getattr(p.batch, n) for p in parts]) for n in names}


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, two, other = joined(batches()[5]), joined(batches()[5]), joined(batches(seed=4)[5])
    later = joined(batches()[6])
    for name, value in one.items():
        assert torch.equal(value, two[name])
        assert not torch.equal(value, other[name])
        assert not torch.equal(value, later[name])


def test_any_number_of_processes_sees_the_same_examples() -> None:
    alone = batches(accumulate=2)[7]
    ranks = [batches(accumulate=2, rank=r, world=2)[7] for r in (0, 1)]
    for part in (0, 1):
        together = joined([ranks[0][part], ranks[1][part]])
        for name, value in joined([alone[part]]).items():
            assert torch.equal(together[name], value)


def test_an_epoch_shows_every_image_once() -> None:
    seen = torch.cat([joined(batches()[k])["tokens"][:, 0] // 1000 for k in range(5)])
    assert sorted(seen.tolist()) == list(range(IMAGES))


def test_both_views_are_seen_and_tokens_are_the_truth() -> None:
    tokens = torch.cat([joined(batches()[k])["tokens"] for k in range(50)])
    view = tokens[:, 0] // 100 % 10
    assert 0.4 < view.float().mean() < 0.6  # 400 fair draws: 4 deviations
    assert torch.equal(tokens - tokens[:, :1], torch.arange(LENGTH).expand_as(tokens))
    single = torch.cat([joined(batches(cache=Codes(1))[k])["tokens"] for k in range(5)])
    assert (single[:, 0] // 100 % 10 == 0).all()


def test_labels_follow_their_image_and_drop_at_the_asked_rate() -> None:
    parts = [joined(batches(label_dropout=0.25)[k]) for k in range(250)]
    labels = torch.cat([p["class_labels"] for p in parts])
    truth = torch.cat([p["tokens"][:, 0] // 1000 % CLASSES for p in parts])
    dropped = labels == CLASSES
    assert torch.equal(labels[~dropped], truth[~dropped])
    assert abs(dropped.float().mean() - 0.25) < 0.04  # 2000 draws: 4 deviations
    assert batches(classes=0)[0][0].batch.class_labels is None
    assert not (joined(batches()[0])["class_labels"] == CLASSES).any()


def test_global_weights_count_every_token_of_the_batch_equally() -> None:
    parts = batches(accumulate=4)[2]
    total = sum(int(p.batch.masked.sum()) for p in parts)
    assert all((p.batch.weight == torch.tensor(1.0) / total).all() for p in parts)
    whole = joined(batches()[2])
    for name, value in joined(parts).items():
        assert torch.equal(value, whole[name])


def test_micro_weights_count_every_micro_batch_equally() -> None:
    parts = batches(accumulate=4, normalize="micro")[2]
    for p in parts:
        assert p.batch.weight[0] * p.batch.masked.sum() == pytest.approx(1 / 4)
        assert p.batch.weight.unique().numel() == 1
    assert len({int(p.batch.masked.sum()) for p in parts}) > 1


def test_a_shared_ratio_is_shared_by_what_is_averaged() -> None:
    for step in range(5):
        for normalize, ratios in (("global", 1), ("micro", 2)):
            parts = batches(shared=True, accumulate=2, normalize=normalize)[step]
            counts = [p.batch.masked.sum(1).unique() for p in parts]
            assert all(len(c) == 1 for c in counts)
            assert len({int(c) for c in counts}) <= ratios
    several = [batches(shared=True, accumulate=2, normalize="micro")[k] for k in range(5)]
    assert any(a.batch.masked[0].sum() != b.batch.masked[0].sum() for a, b in several)


def test_positions_are_those_of_the_mask() -> None:
    for part in batches(accumulate=2)[0]:
        marked = torch.zeros(part.batch.masked.numel(), dtype=torch.bool)
        marked[part.where] = True
        assert torch.equal(marked.view_as(part.batch.masked), part.batch.masked)
        assert torch.equal(part.where, part.where.unique())


def test_batches_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(InputError, match="batch_size=9 does not divide by 2 processes"):
        batches(accumulate=3, batch_size=9, world=2)
    with pytest.raises(InputError, match="41"):
        batches(batch_size=41)


def test_latents_and_what_the_head_learns_from_are_the_same_for_any_number_of_processes() -> None:
    options = {"cache": Moments(), "accumulate": 2, "noise_repeats": 3}
    alone = batches(**options)[7]
    ranks = [batches(**options, rank=r, world=2)[7] for r in (0, 1)]
    for part in (0, 1):
        together = [ranks[0][part], ranks[1][part]]
        tokens = torch.cat([p.batch.tokens for p in together])
        assert torch.equal(tokens, alone[part].batch.tokens)
        for name in ("times", "noise"):
            joint = torch.cat([getattr(p, name) for p in together], dim=1)
            assert torch.equal(joint, getattr(alone[part], name))


def test_every_hidden_token_has_its_own_times_and_noise_and_every_visit_another_sample() -> None:
    (one,), (other,) = (batches(cache=Moments(), noise_repeats=4)[k] for k in (0, 5))
    hidden = int(one.batch.masked.sum())
    assert one.times.shape == (4, hidden)
    assert one.noise.shape == (4, hidden, 3)
    assert one.noise.unique().numel() == one.noise.numel()
    assert 0 <= int(one.times.min()) <= int(one.times.max()) < 1000
    drawn = [torch.remainder(p.batch.tokens + 50, 100) for p in (one, other)]
    assert drawn[0].unique().numel() == drawn[0].numel(), "no two numbers share their noise"
    assert not torch.isin(drawn[0], drawn[1]).any(), "an image is sampled anew each time"


class Work(TorchDispatchMode):
    """How many numbers are drawn, sorted and drawn normal."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        found = made[0] if isinstance(made, tuple) else made
        if isinstance(found, torch.Tensor):
            self.numbers[func.overloadpacket.__name__.rstrip("_")] += found.numel()
        return made


def work(cache: Codes, masking: Masking, *, world: int, rank: int = 0) -> Counter[str]:
    training = Training(steps=100, batch_size=32, seed=3)
    found = MaskedBatches(cache, masking, training=training, classes=9, rank=rank, world=world)
    with Work() as counted:
        found[5]
    return counted.numbers


LAWS = {
    "maskgit": TrainMasking(),
    "mar": NormalMasking(mean=1.0, least=0.7),
    "mar in groups": NormalMasking(mean=1.0, least=0.7, group=4),
    "emigm in groups": BernoulliMasking(group=4),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("cache", [Codes, Moments])
def test_the_work_of_a_step_falls_with_the_number_of_processes(
    name: str, cache: type[Codes]
) -> None:
    """Counted in numbers: what is ranked and every normal number are for own images alone."""
    one = work(cache(), LAWS[name], world=1)
    assert one["sort"] >= 32 * LENGTH
    for world in (2, 4, 8):
        ranks = [work(cache(), LAWS[name], world=world, rank=rank) for rank in range(world)]
        assert {of["sort"] * world for of in ranks} == {one["sort"]}
        assert sum(of["randn"] for of in ranks) == one["randn"]
        if LAWS[name].group:  # of others' groups not even uniform numbers are drawn, but for labels
            assert sum(of["rand"] - 32 for of in ranks) == one["rand"] - 32
