"""Batches for the adapter: pure in (seed, step), equal for any number of processes, weighted."""

from __future__ import annotations

import pytest
import torch
from test_masked_batches import CLASSES, LENGTH, Codes

from unmask.masking import TrainMasking
from unmask.objectives.substitution import SubstitutionBatch
from unmask.recipes.objectives import Substitution
from unmask.recipes.training import Training
from unmask.train.masked_batches import MaskedBatches, SubstitutionBatches


def batches(
    *, rank: int = 0, world: int = 1, dynamic: bool = False, **options: object
) -> SubstitutionBatches:
    training = Training(**{"steps": 100, "batch_size": 8, "seed": 3, **options})
    masked = MaskedBatches(
        Codes(), TrainMasking(), training=training, classes=CLASSES, rank=rank, world=world
    )
    return SubstitutionBatches(masked, Substitution(dynamic=dynamic))


def joined(parts: list[SubstitutionBatch]) -> dict[str, torch.Tensor]:
    """The examples of several micro-batches, by row; positions count through them."""
    names = ("tokens", "masked", "class_labels", "weight")
    found = {name: torch.cat([getattr(p.batch, name) for p in parts]) for name in names}
    rows = torch.tensor([0, *(len(p.batch.masked) for p in parts)]).cumsum(0)
    where = [p.where + first * LENGTH for p, first in zip(parts, rows, strict=False)]
    return found | {"where": torch.cat(where), "uniform": torch.cat([p.uniform for p in parts])}


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    one, two = joined(batches()[5]), joined(batches()[5])
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    for other in (joined(batches(seed=4)[5]), joined(batches()[6])):
        assert not torch.equal(one["where"], other["where"])
        assert not torch.equal(one["uniform"], other["uniform"])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("normalize", ["global", "micro"])
def test_any_number_of_processes_sees_the_same_examples(normalize: str, dynamic: bool) -> None:
    options = {"accumulate": 2, "normalize": normalize, "dynamic": dynamic}
    alone = batches(**options)[7]
    ranks = [batches(rank=r, world=2, **options)[7] for r in (0, 1)]
    for part in (0, 1):
        together = joined([ranks[0][part], ranks[1][part]])
        for name, value in joined([alone[part]]).items():
            assert torch.equal(together[name], value)
        assert alone[part].share == ranks[0][part].share == 1 / 8


def test_replaced_tokens_are_visible_and_count_equally() -> None:
    for step in range(10):
        (part,) = batches()[step]
        assert not part.batch.masked.flatten()[part.where].any()
        assert torch.equal(part.batch.weight, torch.full((8,), 1.0) / len(part.where))
        assert len(part.uniform) == len(part.where)
        visible = (~part.batch.masked).sum(1)
        counts = torch.bincount(part.where // LENGTH, minlength=8)
        expected = (0.3 * visible.float()).round().clamp(min=1)
        assert torch.equal(counts, torch.minimum(expected.long(), visible))


def test_micro_weights_count_every_micro_batch_equally() -> None:
    parts = batches(accumulate=4, normalize="micro")[2]
    for p in parts:
        assert float(p.batch.weight[0]) * len(p.where) == pytest.approx(1 / 4)
    assert len({len(p.where) for p in parts}) > 1
