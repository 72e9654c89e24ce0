"""Mixup and cutmix by their laws, and batches that do not depend on processes."""

from __future__ import annotations

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.mixing import (
    MixedBatches,
    Mixing,
    MixPlan,
    StoredBatches,
    beta,
    draw_mixing,
    mix,
    mix_targets,
    mixed_box,
    soft_targets,
)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_beta_has_its_moments(alpha: float) -> None:
    stream = keyed_generator("beta", str(alpha))
    drawn = torch.tensor([beta(alpha, stream) for _ in range(4000)])
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert abs(float(drawn.mean()) - 0.5) < 0.03
    assert abs(float(drawn.var()) - 1 / (4 * (2 * alpha + 1))) < 0.01


def test_boxes_have_the_area_asked_for_unless_cut_at_the_border() -> None:
    stream = keyed_generator("boxes")
    whole = 0
    for _ in range(300):
        top, bottom, left, right = mixed_box((40, 60), 0.75, stream)
        assert 0 <= top <= bottom <= 40
        assert 0 <= left <= right <= 60
        area = (bottom - top) * (right - left)
        assert area <= 20 * 30
        whole += area == 20 * 30
    assert whole > 50


def test_an_image_keeps_the_share_that_it_is_told_to() -> None:
    images = torch.rand(6, 3, 8, 10, generator=keyed_generator("images"))
    box = torch.tensor([[0, 0, 0, 0], [2, 6, 0, 5], [0, 8, 0, 10]])
    mixed, share = mix(images, MixPlan(torch.tensor([0.3, 1.0, 1.0]), box))
    torch.testing.assert_close(mixed[0], 0.3 * images[0] + 0.7 * images[1])
    torch.testing.assert_close(mixed[1], 0.3 * images[1] + 0.7 * images[0])
    assert torch.equal(mixed[2, :, 2:6, :5], images[3, :, 2:6, :5])
    assert torch.equal(mixed[2, :, :2], images[2, :, :2])
    assert torch.equal(mixed[4], images[5])
    torch.testing.assert_close(share, torch.tensor([0.3, 0.75, 0.0]))


def test_targets_are_probabilities() -> None:
    soft = soft_targets(torch.tensor([0, 2]), 4, smoothing=0.2)
    torch.testing.assert_close(soft[1], torch.tensor([0.05, 0.05, 0.85, 0.05]))
    mixed = mix_targets(soft, torch.tensor([0.25]))
    torch.testing.assert_close(mixed.sum(1), torch.ones(2))
    torch.testing.assert_close(mixed[0], 0.25 * soft[0] + 0.75 * soft[1])


def test_which_kind_is_drawn() -> None:
    def kinds(options: Mixing) -> set[bool]:
        plans = [draw_mixing(options, (32, 32), keyed_generator("kind", i)) for i in range(60)]
        return {bool(plan.keep == 1) for plan in plans}

    assert kinds(Mixing(mixup=0.8, cutmix=0)) == {False}
    assert kinds(Mixing(mixup=0, cutmix=1)) == {True}
    assert kinds(Mixing()) == {True, False}


def test_impossible_groups_are_refused() -> None:
    with pytest.raises(InputError, match="group=5 must be an even number"):
        Mixing(group=5)
    with pytest.raises(InputError, match="group=32 does not divide the 24 images"):
        Mixing().check(24)
    with pytest.raises(InputError, match=r"mixing.mixup=9 must be at most 4"):
        Mixing(mixup=9)
    with pytest.raises(InputError, match=r"cutmix=0.01 must be 0 or in \[0.05, 4\]"):
        Mixing(cutmix=0.01)


def test_batches_do_not_depend_on_the_number_of_processes() -> None:
    table = torch.arange(40.0).view(40, 1) + torch.tensor([0, 0.5])

    def pictures(rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return table[rows, views].view(-1, 1, 1, 1).expand(-1, 1, 4, 4)

    def global_batch(step: int, world: int, accumulate: int) -> list[torch.Tensor]:
        parts: list[list[torch.Tensor]] = []
        for part in range(accumulate):
            for rank in range(world):
                images = StoredBatches(
                    pictures,
                    torch.arange(40),
                    views=2,
                    source=range(40),
                    transform=None,
                    batch_size=16,
                    seed=0,
                    steps=5,
                    rank=rank,
                    world=world,
                    accumulate=accumulate,
                )
                inputs, labels, plan = MixedBatches(images, Mixing(group=4))[step][part]
                mixed, share = mix(inputs, plan)
                targets = mix_targets(soft_targets(labels, 40), share)
                parts.append([mixed, labels, targets])
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    alone, other = global_batch(3, 1, 1), global_batch(4, 1, 1)
    assert not torch.equal(alone[1], other[1])
    for world, accumulate in ((2, 1), (1, 4), (2, 2)):
        for expected, found in zip(alone, global_batch(3, world, accumulate), strict=True):
            assert torch.equal(expected, found)
