"""Groups of images that share a ratio: laws of their masks and weights, and of their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from test_masked_batches import CLASSES, IMAGES, LENGTH, Codes, Moments
from torch import Tensor, nn
from toy_latents import NETWORKS, latent_model
from toy_mage import toy_generator

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.masking import BernoulliMasking, Masking, NormalMasking, TrainMasking
from unmask.nn.model import initialize
from unmask.objectives.contrastive import ContrastiveObjective
from unmask.objectives.masked import LocatedBatch, MaskedObjective
from unmask.recipes.objectives import Contrastive
from unmask.recipes.training import Training
from unmask.train.masked_batches import MaskedBatches, TwoViewBatches

MAR = NormalMasking(mean=1.0, least=0.4)
MAGE = NormalMasking(mean=0.55, least=0.5, drop="least")
EMIGM = BernoulliMasking(least_time=0.05)
MASKINGS = {
    "mar": MAR,
    "mage": MAGE,
    "emigm": EMIGM,
    "weighted": replace(EMIGM, weighted=True),
    "each its own time": replace(EMIGM, weighted=True, shared=False),
    "maskgit": TrainMasking(),
    "maskgit shared": TrainMasking(shared=True),
}
SIZE = 8


class Latents(Moments):
    """Forty images of random latents, six channels."""

    channels = 6

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        table = torch.randn(IMAGES, LENGTH, 6, generator=keyed_generator("latents"))
        assert noise is not None
        return table[rows] + 0.1 * noise


def batches(
    masking: Masking, group: int | None, *, cache: Codes | None = None, **options: object
) -> MaskedBatches:
    """Batches of eight."""
    place = {name: options.pop(name) for name in ("rank", "world") if name in options}
    settings = {"steps": 300, "batch_size": SIZE, "seed": 3, **options}
    return MaskedBatches(
        cache or Codes(),
        replace(masking, group=group),
        training=Training(**settings),  # type: ignore[arg-type]
        classes=CLASSES,
        **place,  # type: ignore[arg-type]
    )


def whole(parts: list[LocatedBatch]) -> tuple[Tensor, Tensor]:
    """Masks and weights of micro-batches, by row."""
    masked = torch.cat([part.batch.masked for part in parts])
    return masked, torch.cat([part.batch.weight.expand(len(part.batch.masked)) for part in parts])


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 100, None])
def test_every_group_counts_by_its_images(name: str, group: int | None) -> None:
    size, rule = min(group or SIZE, SIZE), MASKINGS[name]
    for step in range(5):
        masked, weight = whole(batches(rule, group)[step])
        for rows in torch.arange(SIZE).split(size):
            hidden = masked[rows].sum()
            if getattr(rule, "weighted", False):
                of_time = weight[rows] * hidden * SIZE / len(rows)
                assert (of_time > 0.03).all(), "exp's weight at any time"
            elif hidden:
                share = weight[rows] * hidden * SIZE / len(rows)
                assert share.tolist() == pytest.approx([1] * len(rows))


@pytest.mark.parametrize("name", ["mar", "mage", "emigm", "weighted", "maskgit shared"])
def test_a_group_has_one_ratio_and_every_group_its_own(name: str) -> None:
    counts = []
    for step in range(300):
        masked, _ = whole(batches(MASKINGS[name], 2)[step])
        by_group = masked.sum(1).view(4, 2)
        assert torch.equal(by_group[:, 0], by_group[:, 1])
        counts.append(by_group[:, 0].double())
    table = torch.stack(counts, 1)  # (4, steps)
    between = torch.corrcoef(table) - torch.eye(4)
    assert between.abs().max() < 4 / 300**0.5, "four deviations of independent numbers"
    alone = torch.stack([whole(batches(MASKINGS[name], None)[k])[0][0].sum() for k in range(300)])
    error = (table.mean() - alone.double().mean()).abs()
    assert error < 4 * alone.double().std() / 240**0.5, "the same distribution"


@pytest.mark.parametrize("name", MASKINGS)
def test_no_group_and_one_as_large_as_the_batch_are_one_draw_for_all(name: str) -> None:
    rule = MASKINGS[name]
    for step in (0, 7):
        drawn = rule.draw(SIZE, LENGTH, keyed_generator(3, "mask", step))
        weight = torch.ones(SIZE) if drawn.weight is None else drawn.weight
        for group in (None, SIZE, 1000):
            masked, found = whole(batches(rule, group)[step])
            assert torch.equal(masked, drawn.masked)
            assert torch.equal(found, weight / drawn.masked.sum())


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize(("group", "accumulate"), [(1, 1), (2, 2), (3, 1), (3, 4), (4, 8)])
def test_what_the_encoder_sees_is_all_that_is_not_dropped(
    name: str, group: int, accumulate: int
) -> None:
    parts = batches(MASKINGS[name], group, accumulate=accumulate)[4]
    assert sum(len(part.batch.masked) for part in parts) == SIZE
    for part in parts:
        masked, kept = part.batch.masked, part.batch.kept
        if kept is None:
            continue
        for row, seen in zip(masked, kept, strict=True):
            assert seen.tolist() == sorted(set(seen.tolist()))
            if name != "mage":  # which shows some of the hidden ones as masks
                assert seen.tolist() == (~row).nonzero().flatten().tolist()


def test_groups_are_apart_only_where_the_encoder_sees_unequally_many() -> None:
    assert len(batches(MAGE, 2)[0]) == 1
    assert len(batches(TrainMasking(shared=True), 2)[0]) == 1
    sizes = [[len(part.batch.masked) for part in batches(MAR, 2)[step]] for step in range(20)]
    assert all(sum(of) == SIZE for of in sizes)
    assert max(map(len, sizes)) == 4
    assert min(map(len, sizes)) < 4, "two that happen to see equally many are one"
    assert [len(part.batch.masked) for part in batches(MAR, None)[0]] == [SIZE]


def mar(name: str) -> nn.Module:
    model = latent_model(NETWORKS["tied" if name in ("emigm", "weighted") else "drops"])
    model.embed.null_class = 3
    return MaskedObjective(model)


def gradient(objective: nn.Module, parts: list[LocatedBatch]) -> dict[str, Tensor]:
    """Of the summed loss, with the loss itself."""
    objective.zero_grad()
    losses = [objective(part)["loss"] for part in parts]
    for loss in losses:
        loss.backward()
    found = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return found | {"loss": torch.stack(losses).sum().detach()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-4, msg=name)


def three_classes() -> Latents:
    cache = Latents()
    cache.labels = torch.arange(IMAGES) % 3
    return cache


def latent_batches(name: str, group: int | None, **options: object) -> MaskedBatches:
    made = batches(MASKINGS[name], group, cache=three_classes(), noise_repeats=2, **options)
    made.classes = 3
    return made


@pytest.mark.parametrize("name", ["mar", "emigm", "weighted"])
def test_the_gradient_is_the_mean_of_those_of_processes_that_draw_for_themselves(name: str) -> None:
    objective, options = mar(name), {"label_dropout": 0.3}
    found = gradient(objective, latent_batches(name, 2, **options)[5])
    processes = []
    for number, part in enumerate(latent_batches(name, 2, accumulate=4, **options)[5]):
        drawn = MASKINGS[name].draw(2, LENGTH, keyed_generator(3, "mask", 5, number))
        assert torch.equal(drawn.masked, part.batch.masked)
        weight = torch.ones(2) if drawn.weight is None else drawn.weight
        mean = weight / drawn.masked.sum()  # of the hidden tokens, as a process computes it
        own = part._replace(batch=part.batch._replace(weight=mean))
        processes.append(gradient(objective, [own]))
    average = {key: sum(of[key] for of in processes) / 4 for key in found}
    assert_equal(average, found)
    one_ratio = gradient(objective, latent_batches(name, None, **options)[5])
    assert not torch.isclose(one_ratio["loss"], found["loss"])


@pytest.mark.parametrize("name", ["mar", "weighted"])
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("group", [2, 3])
def test_any_cut_among_processes_and_micro_batches_has_one_gradient(
    name: str, world: int, accumulate: int, group: int
) -> None:
    objective = mar(name)
    alone = gradient(objective, latent_batches(name, group)[2])
    every = [
        part
        for rank in range(world)
        for part in latent_batches(name, group, rank=rank, world=world, accumulate=accumulate)[2]
    ]
    assert_equal(alone, gradient(objective, every))


def mage_c(accumulate: int = 1, group: int | None = 2, **place: int) -> list[LocatedBatch]:
    training = Training(steps=9, batch_size=SIZE, accumulate=accumulate, seed=3)
    masking = replace(MAGE, group=group)
    return TwoViewBatches(Codes16(), masking, training=training, classes=0, **place)[1]


class Codes16(Codes):
    """Forty images of sixteen codes."""

    labels = torch.full((IMAGES,), -1)

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        table = torch.randint(16, (IMAGES, 2, LENGTH), generator=keyed_generator("codes"))
        return table[rows, views]


def test_two_views_have_groups_of_their_own_and_stay_in_one_micro_batch() -> None:
    (located,) = mage_c()
    counts = located.batch.masked.sum(1).view(2, 4, 2)
    assert torch.equal(counts[..., 0], counts[..., 1])
    assert len(counts[..., 0].unique()) > 1
    assert not torch.equal(counts[0], counts[1])
    hidden = counts.sum(-1, keepdim=True).expand(2, 4, 2).flatten()
    share = located.batch.weight * hidden
    assert share.tolist() == pytest.approx([1 / 8] * 16), "half of each view's group's quarter"
    model = toy_generator().model
    initialize(model, keyed_generator("weights"))
    objective = ContrastiveObjective(
        model,
        Contrastive(hidden=8, outputs=4),
        generator=keyed_generator("projection"),
        batch_size=SIZE,
    ).eval()
    torch.testing.assert_close(
        sum(objective(part)["masked"] for part in mage_c(3)), objective(located)["masked"]
    )


def shares() -> Iterator[tuple[dict, list[int]]]:
    yield {"accumulate": 3}, [3, 3, 2]
    yield {"micro_batch_size": 5}, [5, 3]
    yield {"micro_batch_size": 3}, [3, 3, 2]


@pytest.mark.parametrize(("cut", "sizes"), list(shares()))
@pytest.mark.parametrize("name", ["maskgit", "maskgit shared", "mar", "emigm"])
def test_a_smaller_last_micro_batch_counts_by_its_images(
    name: str, cut: dict, sizes: list[int]
) -> None:
    parts = batches(MASKINGS[name], None, normalize="micro", **cut)[2]
    assert [len(part.batch.masked) for part in parts] == sizes
    for part, size in zip(parts, sizes, strict=True):
        of = part.batch
        assert float(of.weight[0] * of.masked.sum()) == pytest.approx(size / SIZE)
        assert len(of.weight.unique()) == 1


def test_both_ways_to_cut_a_batch_are_one_too_many() -> None:
    with pytest.raises(InputError, match=r"micro_batch_size=4 and training\.accumulate=2 both"):
        Training(steps=1, batch_size=8, micro_batch_size=4, accumulate=2)
    with pytest.raises(InputError, match=r"accumulate=9 exceeds training\.batch_size=8"):
        Training(steps=1, batch_size=8, accumulate=9)
