"""Two views of each image: the same images, other views, masks of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.masking import NormalMasking
from unmask.recipes.training import Training
from unmask.train.masked_batches import MaskedBatches, TwoViewBatches

MASKING = NormalMasking(mean=0.55, least=0.5, drop="least")


class Codes:
    """Forty images whose codes name the image and the view."""

    labels = torch.full((40,), -1)
    channels, length = 0, 16

    def __init__(self, views: int) -> None:
        self.views = views

    def __len__(self) -> int:
        return 40

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        return (rows * 100 + views)[:, None].expand(-1, 16)


def batches(views: int = 2, *, seed: int = 3, **place: int) -> TwoViewBatches:
    training = Training(steps=9, batch_size=8, accumulate=place.pop("accumulate", 1), seed=seed)
    return TwoViewBatches(Codes(views), MASKING, training=training, classes=0, **place)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_the_same_images_in_other_views(views: int) -> None:
    met = set()
    for step in range(30):
        (located,) = batches(views)[step]
        first, second = located.batch.tokens[:, 0].chunk(2)
        assert torch.equal(first // 100, second // 100)
        assert (first != second).all()
        met |= set(zip((first % 100).tolist(), (second % 100).tolist(), strict=True))
    assert met == {(a, b) for a in range(views) for b in range(views) if a != b}


def test_masks_are_drawn_for_each_view() -> None:
    (located,) = batches()[4]
    one, two = located.batch.masked.chunk(2)
    assert not torch.equal(one, two)
    assert located.batch.kept is not None
    assert located.batch.kept.shape == (16, 8)
    assert torch.equal(located.where, located.batch.masked.flatten().nonzero().squeeze(1))
    rates = [batches()[step][0].batch.masked.sum(1)[[0, 8]].tolist() for step in range(9)]
    assert any(a != b for a, b in rates)


def test_the_first_view_is_that_of_plain_batches() -> None:
    training = Training(steps=9, batch_size=8, seed=3)
    plain = MaskedBatches(Codes(2), MASKING, training=training, classes=0)
    for step in (0, 7):
        ours, theirs = batches()[step][0].batch, plain[step][0].batch
        assert torch.equal(ours.tokens[:8], theirs.tokens)
        assert torch.equal(ours.masked[:8], theirs.masked)
        assert torch.equal(ours.weight[:8], theirs.weight / 2)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    assert torch.equal(batches()[5][0].batch.masked, batches()[5][0].batch.masked)
    assert torch.equal(batches()[5][0].batch.tokens, batches()[5][0].batch.tokens)
    assert not torch.equal(batches()[5][0].batch.masked, batches(seed=4)[5][0].batch.masked)


def test_processes_cut_the_same_batch() -> None:
    (whole,) = batches()[2]
    first, second = whole.batch.tokens[:, 0].chunk(2)
    place = 0
    for part in range(2):
        for rank in range(2):
            cut = batches(rank=rank, world=2, accumulate=2)[2][part].batch
            rows = slice(place, place + 2)
            assert torch.equal(cut.tokens[:, 0], torch.cat([first[rows], second[rows]]))
            assert torch.equal(cut.masked[:2], whole.batch.masked[rows])
            assert torch.equal(cut.masked[2:], whole.batch.masked[8:][rows])
            place += 2


def test_one_view_is_not_enough() -> None:
    with pytest.raises(InputError, match=r"contrastive needs two views of each image, and .* one"):
        batches(1)
